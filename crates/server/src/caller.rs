//! Who asks: the outcome of authentication, and the only thing that `App` knows of it.

use coffer_core::id::ProjectId;

/// What somebody may do within a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, in every project.
    Admin,
    /// Everything within the project.
    Member,
    /// Look at what is in the project.
    Reader,
}

impl Role {
    /// The name in tokens, in the store and in Keystone.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Reader => "reader",
        }
    }

    /// The role of that name; `None` for roles that mean nothing here.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Admin, Self::Member, Self::Reader].into_iter().find(|role| role.name() == name)
    }
}

/// An authenticated user, acting in one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub project: ProjectId,
    /// The user's id.
    pub user: String,
    pub roles: Vec<Role>,
}

impl Caller {
    /// Whether the caller may see and change every project.
    pub fn is_admin(&self) -> bool {
        self.roles.contains(&Role::Admin)
    }

    /// Whether the caller may change anything in the project.
    pub fn may_write(&self) -> bool {
        self.is_admin() || self.roles.contains(&Role::Member)
    }
}
