//! Users, projects, roles and tokens of the embedded identity. Passwords and tokens are here as hashes only.

use coffer_core::id::ProjectId;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::row::{Columns, micros};
use crate::{Error, News, Store, Write};

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub name: String,
    /// As argon2 writes it, with its parameters.
    pub password_hash: String,
}

/// A tenant with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The SHA-256 of the token in hexadecimal digits.
    pub hash: String,
    pub user: String,
    /// `None` for a token that is good for nothing but asking for another.
    pub project: Option<ProjectId>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A token with everything that is to be known of whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    pub token: Token,
    pub user_name: String,
    pub project_name: Option<String>,
    /// The user's roles in the token's project.
    pub roles: Vec<String>,
}

impl Store {
    /// The user of that name.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>, Error> {
        let row = sqlx::query("SELECT id, name, password_hash FROM users WHERE name = $1").bind(name);
        row.fetch_optional(self.reader()).await?.as_ref().map(user).transpose()
    }

    /// The user with that id.
    pub async fn user(&self, id: &str) -> Result<Option<User>, Error> {
        let row = sqlx::query("SELECT id, name, password_hash FROM users WHERE id = $1").bind(id);
        row.fetch_optional(self.reader()).await?.as_ref().map(user).transpose()
    }

    /// The project of that name.
    pub async fn project_by_name(&self, name: &str) -> Result<Option<Project>, Error> {
        let row = sqlx::query("SELECT id, name FROM projects WHERE name = $1").bind(name);
        row.fetch_optional(self.reader()).await?.as_ref().map(project).transpose()
    }

    /// The project with that id.
    pub async fn project(&self, id: &ProjectId) -> Result<Option<Project>, Error> {
        let row = sqlx::query("SELECT id, name FROM projects WHERE id = $1").bind(&id.0);
        row.fetch_optional(self.reader()).await?.as_ref().map(project).transpose()
    }

    /// The projects in which a user has a role, by name.
    pub async fn projects_of(&self, user: &str) -> Result<Vec<Project>, Error> {
        let rows = sqlx::query(
            "SELECT DISTINCT p.id, p.name FROM projects p JOIN roles r ON r.project_id = p.id WHERE r.user_id = $1 \
             ORDER BY p.name",
        )
        .bind(user)
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(project).collect()
    }

    /// A user's roles in a project; none of a project that there is not.
    pub async fn roles(&self, user: &str, project: &ProjectId) -> Result<Vec<String>, Error> {
        let names = sqlx::query_scalar("SELECT role FROM roles WHERE user_id = $1 AND project_id = $2 ORDER BY role");
        Ok(names.bind(user).bind(&project.0).fetch_all(self.reader()).await?)
    }

    /// The token with that hash and its owner, in one query. Whether it has expired is for the caller to say.
    pub async fn token(&self, hash: &str) -> Result<Option<TokenOwner>, Error> {
        let row = sqlx::query(
            "SELECT t.hash, t.user_id, t.project_id, t.issued_at, t.expires_at, u.name, p.name, \
                 (SELECT string_agg(r.role, ',') FROM roles r \
                  WHERE r.user_id = t.user_id AND r.project_id = t.project_id) \
             FROM tokens t JOIN users u ON u.id = t.user_id LEFT JOIN projects p ON p.id = t.project_id \
             WHERE t.hash = $1",
        )
        .bind(hash)
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut c = Columns::of(&row, "token");
        let token = Token {
            hash: c.get()?,
            user: c.get()?,
            project: c.get::<Option<String>>()?.map(ProjectId),
            issued_at: c.time()?,
            expires_at: c.time()?,
        };
        let (user_name, project_name) = (c.get()?, c.get()?);
        let roles = c.get::<Option<&str>>()?.map(|all| all.split(',').map(str::to_owned).collect());
        Ok(Some(TokenOwner { token, user_name, project_name, roles: roles.unwrap_or_default() }))
    }

    /// Keeps a token.
    pub async fn insert_token(&self, token: &Token) -> Result<(), Error> {
        let mut write = self.write().await?;
        sqlx::query(
            "INSERT INTO tokens (hash, user_id, project_id, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&token.hash)
        .bind(&token.user)
        .bind(token.project.as_ref().map(|p| p.0.clone()))
        .bind(micros(token.issued_at))
        .bind(micros(token.expires_at))
        .execute(write.tx())
        .await?;
        write.commit().await
    }

    /// Forgets a token. False when there was none.
    pub async fn delete_token(&self, hash: &str) -> Result<bool, Error> {
        let mut write = self.write().await?;
        write.tell(News::Revoked);
        let done = sqlx::query("DELETE FROM tokens WHERE hash = $1").bind(hash).execute(write.tx()).await?;
        write.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets all tokens that have expired at `now`; tells how many.
    pub async fn delete_expired_tokens(&self, now: Timestamp) -> Result<u64, Error> {
        let mut write = self.write().await?;
        let query = sqlx::query("DELETE FROM tokens WHERE expires_at <= $1").bind(micros(now));
        let done = query.execute(write.tx()).await?;
        write.commit().await?;
        Ok(done.rows_affected())
    }
}

impl Write {
    /// Makes sure that there is this project. One that is there keeps its name.
    pub async fn ensure_project(&mut self, project: &Project) -> Result<(), Error> {
        sqlx::query("INSERT INTO projects (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(&project.id.0)
            .bind(&project.name)
            .execute(self.tx())
            .await?;
        Ok(())
    }

    /// Makes sure that there is this user with this password.
    pub async fn ensure_user(&mut self, user: &User) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO users (id, name, password_hash) VALUES ($1, $2, $3) \
             ON CONFLICT (id) DO UPDATE SET password_hash = excluded.password_hash",
        )
        .bind(&user.id)
        .bind(&user.name)
        .bind(&user.password_hash)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Makes sure that the user has the role in the project.
    pub async fn ensure_role(&mut self, user: &str, project: &ProjectId, role: &str) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO roles (user_id, project_id, role) VALUES ($1, $2, $3) \
             ON CONFLICT (user_id, project_id, role) DO NOTHING",
        )
        .bind(user)
        .bind(&project.0)
        .bind(role)
        .execute(self.tx())
        .await?;
        Ok(())
    }
}

fn user(row: &AnyRow) -> Result<User, Error> {
    let mut c = Columns::of(row, "user");
    Ok(User { id: c.get()?, name: c.get()?, password_hash: c.get()? })
}

fn project(row: &AnyRow) -> Result<Project, Error> {
    let mut c = Columns::of(row, "project");
    Ok(Project { id: ProjectId(c.get()?), name: c.get()? })
}
