//! The first start: a project and a user for the operator, the same for whoever tries it out, and a file that tells
//! their passwords to whoever owns the data directory.
//!
//! ```text
//!  write DIR/.clouds.yaml.new  ->  users are in the store  ->  DIR/clouds.yaml
//! ```
//!
//! The passwords are nowhere else, so the file comes first. Killed after it: the next start makes new ones. Killed before
//! the renaming: the next start does it. Once it is there it is the owner's: it is never written again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use coffer_core::id::ProjectId;
use coffer_store::{Project, Store, User};
use fs_err::os::unix::fs::OpenOptionsExt;
use uuid::Uuid;

use super::{Error, password, secret};
use crate::caller::Role;

/// Why the clouds file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CloudsError {
    #[error(transparent)]
    Write(#[from] std::io::Error),
    #[error("{0} is there, but the store has no users; hint: move it away, it belongs to another store")]
    InTheWay(PathBuf),
}

/// Somebody who can log in from the first start on.
struct First {
    name: &'static str,
    role: Role,
    password: String,
}

/// Makes sure that there are users, and that the file with their passwords is at its place. `public_url` is where this
/// server is reached.
pub async fn ensure_first_users(store: &Store, dir: &Path, public_url: &str, region: &str) -> Result<(), Error> {
    let (clouds, new) = (dir.join("clouds.yaml"), dir.join(".clouds.yaml.new"));
    if store.user_by_name("admin").await?.is_none() {
        if clouds.exists() {
            return Err(CloudsError::InTheWay(clouds).into());
        }
        let firsts = [("admin", Role::Admin), ("demo", Role::Member)]
            .into_iter()
            .map(|(name, role)| Ok(First { name, role, password: secret::password()? }))
            .collect::<Result<Vec<_>, Error>>()?;
        write_secret(&new, &render(&firsts, public_url, region)).map_err(CloudsError::from)?;
        insert(store, firsts).await?;
    }
    if new.exists() {
        // Whoever put another file there in the meantime keeps it.
        if !clouds.exists() {
            fs_err::rename(&new, &clouds).map_err(CloudsError::from)?;
        }
        tracing::info!(file = %clouds.display(), "credentials of the projects admin and demo are in this file");
    }
    Ok(())
}

async fn insert(store: &Store, firsts: Vec<First>) -> Result<(), Error> {
    // Side by side: it is most of what a first start takes.
    let hashing: Vec<_> = firsts
        .into_iter()
        .map(|f| tokio::task::spawn_blocking(move || Ok::<_, Error>((f.name, f.role, password::hash(&f.password)?))))
        .collect();
    let mut hashed = Vec::new();
    for one in hashing {
        hashed.push(one.await.map_err(|error| Error::Secret(error.to_string()))??);
    }
    let mut write = store.write().await?;
    for (name, role, password_hash) in hashed {
        let id = || Uuid::new_v4().simple().to_string();
        let project = Project { id: ProjectId(id()), name: name.to_owned() };
        let user = User { id: id(), name: name.to_owned(), password_hash };
        write.ensure_project(&project).await?;
        write.ensure_user(&user).await?;
        write.ensure_role(&user.id, &project.id, role.name()).await?;
    }
    Ok(write.commit().await?)
}

/// Passwords are hexadecimal digits, and names are ours: nothing in here needs quoting but the address and the region.
fn render(firsts: &[First], public_url: &str, region: &str) -> String {
    let mut text = String::from(
        "# Written by coffer at its first start, and never again. Keep it secret.\n\
         # OS_CLIENT_CONFIG_FILE=<this file> OS_CLOUD=demo openstack database instance list\n\
         clouds:\n",
    );
    for First { name, password, .. } in firsts {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let lines = [
            format!("  {name}:"),
            "    auth:".to_owned(),
            format!("      auth_url: {}", quoted(&format!("{public_url}/v3"))),
            format!("      username: {name}"),
            format!("      password: '{password}'"),
            format!("      project_name: {name}"),
            "      user_domain_name: Default".to_owned(),
            "      project_domain_name: Default".to_owned(),
            format!("    region_name: {}", quoted(region)),
            "    identity_api_version: 3".to_owned(),
        ];
        text.extend(lines.into_iter().flat_map(|line| [line, "\n".to_owned()]));
    }
    text
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    // One that a start before this left behind is of no use to anybody.
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
