//! Who is asking: the embedded Keystone, as much of it as clients of a database service need.
//!
//! Guarantees:
//! - a token is 256 random bits, and nothing but its SHA-256 is kept or looked up;
//! - a token is worth nothing once it has expired or was revoked, whatever is cached;
//! - every reason to turn somebody away looks the same from outside, and takes as long;
//! - however many try to log in at once, only a few passwords are hashed at a time.
//!
//! Read in this order: [`secret`] (tokens), [`password`] (hashing), [`first`] (the first start), then this.

mod first;
mod password;
mod secret;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use coffer_store::{Project, Store, Token, TokenOwner, User};
use coffer_wire::trove::identity::{Auth, PasswordMethod, ProjectRef};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use crate::caller::{Caller, Role};
use crate::clock::Clock;

pub use first::ensure_first_users;

use password::Passwords;
use secret::Hash;

/// How many tokens are remembered at most. One takes some hundred bytes.
const CACHED: usize = 10_000;
/// How often expired tokens are cleared away, in seconds.
const SWEEP_SECONDS: i64 = 3600;

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unknown user, wrong password, no role in the project, token that is none: the caller is not told which.
    #[error("not authenticated")]
    Denied,
    /// Too many log in at once.
    #[error("too many logins at once; hint: try again in a moment")]
    Overloaded,
    /// The store did not answer.
    #[error("the store failed")]
    Store(#[from] coffer_store::Error),
    /// The clouds file cannot be written, or is in the way.
    #[error("clouds file")]
    Clouds(#[from] first::CloudsError),
    /// There is no randomness, or hashing failed: nothing of this can be done securely then.
    #[error("no secret could be made: {0}")]
    Secret(String),
}

/// Somebody who was let in, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub caller: Caller,
    pub user_name: String,
    /// `None` for a token that is good for nothing but asking for another.
    pub project: Option<Project>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// Names the token in audits, without being of use to anybody.
    pub audit_id: String,
}

/// A token that was just made, and whom it stands for.
#[derive(Debug)]
pub struct Issued {
    pub token: SecretString,
    pub session: Arc<Session>,
}

/// Sessions by their token's hash, and how often one was revoked: what was read from the store before a revocation must
/// not be remembered after it.
#[derive(Debug, Default)]
struct Remembered {
    sessions: HashMap<Hash, Arc<Session>>,
    revocations: u64,
}

/// The embedded identity service.
#[derive(Debug)]
pub struct Identity {
    store: Store,
    clock: Clock,
    token_life: SignedDuration,
    passwords: Passwords,
    /// Sessions of tokens that were shown lately, so that a request costs no query for who asks.
    remembered: RwLock<Remembered>,
    swept_at: AtomicI64,
}

impl Identity {
    /// Serves the users that are in the store; tokens live for so many hours.
    pub fn new(store: Store, clock: Clock, token_hours: u32) -> Self {
        Self {
            store,
            clock,
            token_life: SignedDuration::from_hours(i64::from(token_hours)),
            passwords: Passwords::default(),
            remembered: RwLock::default(),
            swept_at: AtomicI64::new(0),
        }
    }

    /// Whoever shows this token, if it is one and is still valid.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>, Error> {
        let hash = secret::hash(token);
        let now = self.clock.now();
        let (remembered, revocations) = self.remembered(&hash);
        if let Some(session) = remembered {
            return if session.expires_at > now { Ok(session) } else { Err(Error::Denied) };
        }
        let owner = self.store.token(&secret::hex(&hash)).await?.ok_or(Error::Denied)?;
        let session = Arc::new(Session::from(owner));
        if session.expires_at <= now {
            return Err(Error::Denied);
        }
        self.remember(hash, &session, revocations);
        Ok(session)
    }

    /// A new token for whoever proves to be somebody.
    pub async fn issue(&self, auth: &Auth) -> Result<Issued, Error> {
        let now = self.clock.now();
        let identity = &auth.identity;
        let (user, expires_at) = match (identity.methods.as_slice(), &identity.password, &identity.token) {
            ([method], Some(password), _) if method == "password" => {
                (self.verify_password(password).await?, now.saturating_add(self.token_life).map_err(no_time)?)
            }
            ([method], _, Some(token)) if method == "token" => {
                let session = self.authenticate(&token.id).await?;
                let user = self.store.user(&session.caller.user).await?.ok_or(Error::Denied)?;
                // A token never begets one that outlives it.
                (user, session.expires_at)
            }
            _ => return Err(Error::Denied),
        };
        let project = match &auth.scope {
            None => self.store.projects_of(&user.id).await?.into_iter().next(),
            Some(scope) => Some(self.find_project(scope.project.as_ref().ok_or(Error::Denied)?).await?),
        };
        let roles = match &project {
            Some(project) => self.store.roles(&user.id, &project.id).await?,
            None => Vec::new(),
        };
        if project.is_some() && roles.is_empty() {
            return Err(Error::Denied);
        }
        self.issue_token(user, project, roles, now, expires_at).await
    }

    async fn issue_token(
        &self,
        user: User,
        project: Option<Project>,
        roles: Vec<String>,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Issued, Error> {
        let text = secret::token()?;
        let hash = secret::hash(&text);
        let (_, revocations) = self.remembered(&hash);
        let token = Token {
            hash: secret::hex(&hash),
            user: user.id,
            project: project.as_ref().map(|p| p.id.clone()),
            issued_at: now,
            expires_at,
        };
        self.sweep(now).await?;
        self.store.insert_token(&token).await?;
        let project_name = project.map(|p| p.name);
        let session = Arc::new(Session::from(TokenOwner { token, user_name: user.name, project_name, roles }));
        self.remember(hash, &session, revocations);
        Ok(Issued { token: text.into(), session })
    }

    /// Makes a token worth nothing. One that is none is no error: it is worth nothing already.
    pub async fn revoke(&self, token: &str) -> Result<(), Error> {
        let hash = secret::hash(token);
        self.store.delete_token(&secret::hex(&hash)).await?;
        self.forget_sessions();
        Ok(())
    }

    /// Asks the store for whatever token is shown next: one may have been revoked, by whichever server.
    pub(crate) fn forget_sessions(&self) {
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        remembered.sessions.clear();
        remembered.revocations += 1;
    }

    /// The projects in which somebody has a role.
    pub async fn projects(&self, caller: &Caller) -> Result<Vec<Project>, Error> {
        Ok(self.store.projects_of(&caller.user).await?)
    }

    /// A project by id or name: one of the caller's own, or any for an administrator.
    pub async fn project(&self, caller: &Caller, project: &str) -> Result<Option<Project>, Error> {
        let found = match self.store.project(&project.into()).await? {
            Some(project) => Some(project),
            None => self.store.project_by_name(project).await?,
        };
        let Some(found) = found else { return Ok(None) };
        let seen = caller.is_admin() || !self.store.roles(&caller.user, &found.id).await?.is_empty();
        Ok(seen.then_some(found))
    }

    async fn verify_password(&self, method: &PasswordMethod) -> Result<User, Error> {
        let given = &method.user;
        let in_domain = given.domain.as_ref().is_none_or(coffer_wire::trove::identity::DomainRef::is_default);
        let user = match (&given.id, &given.name) {
            (Some(id), _) => self.store.user(id).await?,
            (None, Some(name)) if in_domain => self.store.user_by_name(name).await?,
            (None, _) => None,
        };
        // Somebody who does not exist takes as long as somebody who does.
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.verify(given.password.clone(), hash).await?;
        user.filter(|_| right).ok_or(Error::Denied)
    }

    async fn find_project(&self, wanted: &ProjectRef) -> Result<Project, Error> {
        let in_domain = wanted.domain.as_ref().is_none_or(coffer_wire::trove::identity::DomainRef::is_default);
        let found = match (&wanted.id, &wanted.name) {
            (Some(id), _) => self.store.project(&id.as_str().into()).await?,
            (None, Some(name)) if in_domain => self.store.project_by_name(name).await?,
            (None, _) => None,
        };
        found.ok_or(Error::Denied)
    }

    fn remembered(&self, hash: &Hash) -> (Option<Arc<Session>>, u64) {
        let remembered = self.remembered.read().unwrap_or_else(PoisonError::into_inner);
        (remembered.sessions.get(hash).cloned(), remembered.revocations)
    }

    /// Remembers a session, unless something was revoked since `revocations` was read: it may have been this one.
    fn remember(&self, hash: Hash, session: &Arc<Session>, revocations: u64) {
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.revocations != revocations {
            return;
        }
        let sessions = &mut remembered.sessions;
        if sessions.len() >= CACHED {
            let now = self.clock.now();
            sessions.retain(|_, session| session.expires_at > now);
            if sessions.len() >= CACHED {
                sessions.clear();
            }
        }
        sessions.insert(hash, Arc::clone(session));
    }

    async fn sweep(&self, now: Timestamp) -> Result<(), Error> {
        let last = self.swept_at.load(Ordering::Relaxed);
        if now.as_second() - last < SWEEP_SECONDS {
            return Ok(());
        }
        self.swept_at.store(now.as_second(), Ordering::Relaxed);
        self.store.delete_expired_tokens(now).await?;
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        remembered.sessions.retain(|_, session| session.expires_at > now);
        Ok(())
    }
}

fn no_time(error: jiff::Error) -> Error {
    Error::Secret(error.to_string())
}

impl From<TokenOwner> for Session {
    fn from(owner: TokenOwner) -> Self {
        let TokenOwner { token, user_name, project_name, roles } = owner;
        let project = token.project.zip(project_name).map(|(id, name)| Project { id, name });
        let caller = Caller {
            // A token without a project matches no path: no project has an empty id.
            project: project.as_ref().map_or_else(|| "".into(), |p| p.id.clone()),
            user: token.user,
            roles: roles.iter().filter_map(|name| Role::named(name)).collect(),
        };
        let audit_id = secret::hex(&secret::hash(&token.hash)).chars().take(22).collect();
        Self { caller, user_name, project, issued_at: token.issued_at, expires_at: token.expires_at, audit_id }
    }
}

#[cfg(test)]
mod tests;
