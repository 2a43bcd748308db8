//! The part of Keystone v3 that clients of a database service need.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// `POST /v3/auth/tokens`: who asks, and for which project.
#[derive(Clone, Deserialize, ToSchema)]
pub struct AuthBody {
    pub auth: Auth,
}

/// Who asks, and for which project.
#[derive(Clone, Deserialize, ToSchema)]
pub struct Auth {
    pub identity: Identity,
    /// Absent for the user's own project. What is not `{"project": ...}`, such as `"unscoped"`, counts as absent too.
    #[serde(default, deserialize_with = "scope")]
    #[schema(value_type = Option<Scope>)]
    pub scope: Option<Scope>,
}

fn scope<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Scope>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    if !value.is_object() {
        return Ok(None);
    }
    serde_json::from_value(value).map(Some).map_err(D::Error::custom)
}

/// How somebody proves who they are.
#[derive(Clone, Deserialize, ToSchema)]
pub struct Identity {
    /// `password` or `token`.
    pub methods: Vec<String>,
    #[serde(default)]
    pub password: Option<PasswordMethod>,
    #[serde(default)]
    pub token: Option<TokenMethod>,
}

/// By password.
#[derive(Clone, Deserialize, ToSchema)]
pub struct PasswordMethod {
    pub user: UserWithPassword,
}

/// A user, by id or by name within a domain, and the password.
#[derive(Clone, Deserialize, ToSchema)]
pub struct UserWithPassword {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub domain: Option<DomainRef>,
    pub password: String,
}

/// By a token that is still valid.
#[derive(Clone, Deserialize, ToSchema)]
pub struct TokenMethod {
    pub id: String,
}

/// For which project a token is wanted.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct Scope {
    #[serde(default)]
    pub project: Option<ProjectRef>,
}

/// A project, by id or by name within a domain.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ProjectRef {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub domain: Option<DomainRef>,
}

/// A domain, by id or by name.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct DomainRef {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
}

/// `{"token": ...}`. The token itself is in the header `X-Subject-Token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenBody {
    pub token: Token,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Token {
    pub methods: Vec<String>,
    pub user: User,
    pub audit_ids: Vec<String>,
    /// With microseconds and `Z`, unlike Trove's dates.
    pub expires_at: String,
    pub issued_at: String,
    /// Absent, as the catalogue is empty, for a token that is good for nothing but asking for another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Named>,
    pub is_domain: bool,
    pub roles: Vec<Role>,
    pub catalog: Vec<Service>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    pub id: String,
    pub name: String,
    pub domain: Domain,
    pub password_expires_at: Option<String>,
}

/// A project within its domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Named {
    pub id: String,
    pub name: String,
    pub domain: Domain,
}

/// The one domain there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Domain {
    pub id: String,
    pub name: String,
}

impl Domain {
    /// Its id.
    pub const ID: &'static str = "default";
    /// Its name.
    pub const NAME: &'static str = "Default";
}

impl Default for Domain {
    fn default() -> Self {
        Self { id: Self::ID.to_owned(), name: Self::NAME.to_owned() }
    }
}

impl DomainRef {
    /// Whether this is the one domain there is.
    pub fn is_default(&self) -> bool {
        self.id.as_deref().is_none_or(|id| id == Domain::ID) && self.name.as_deref().is_none_or(|n| n == Domain::NAME)
    }
}

/// A role that somebody has in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Role {
    pub id: String,
    pub name: String,
}

/// A service of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Service {
    pub id: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub endpoints: Vec<Endpoint>,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Endpoint {
    pub id: String,
    pub interface: String,
    pub region: String,
    pub region_id: String,
    pub url: String,
}

/// `{"projects": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProjectsBody {
    pub projects: Vec<Project>,
    pub links: SelfLink,
}

/// `{"project": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProjectBody {
    pub project: Project,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub description: String,
    pub domain_id: String,
    pub parent_id: String,
    pub enabled: bool,
    pub is_domain: bool,
    pub links: SelfLink,
}

/// Where something is itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SelfLink {
    #[serde(rename = "self")]
    pub this: String,
}
