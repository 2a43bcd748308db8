//! Datastores and their versions, as users and as operators see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::trove::link::Link;

/// `{"datastores": [...]}`. Never paged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoresBody {
    pub datastores: Vec<Datastore>,
}

/// `{"datastore": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreBody {
    pub datastore: Datastore,
}

/// A datastore with its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Datastore {
    pub id: String,
    pub name: String,
    pub links: Vec<Link>,
    pub versions: Vec<Version>,
    /// The id of the version that a creation takes when it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_version: Option<String>,
}

/// `{"versions": [...]}`. Never paged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionsBody {
    pub versions: Vec<Version>,
}

/// `{"version": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionBody {
    pub version: Version,
}

/// One version of a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub id: String,
    pub name: String,
    /// The engine's own number.
    pub version: String,
    pub links: Vec<Link>,
    /// The id of its datastore; absent within one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = VersionAdmin)]
    pub admin: Option<VersionAdmin>,
}

/// What administrators are shown of a version in addition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionAdmin {
    #[schema(required = false)]
    pub active: bool,
    #[schema(required = false)]
    pub packages: String,
    /// The digest of the engine image; empty until it was fetched for the first time.
    #[schema(required = false)]
    pub image: String,
    #[schema(required = false)]
    pub registry_ext: String,
    #[schema(required = false)]
    pub repl_strategy: String,
    #[schema(required = false)]
    pub image_tags: Vec<String>,
}

/// `{"versions": [...]}` for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MgmtVersionsBody {
    pub versions: Vec<MgmtVersion>,
}

/// `{"version": ...}` for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MgmtVersionBody {
    pub version: MgmtVersion,
}

/// One version as operators see it. Empty lists are `[""]`, as Trove has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MgmtVersion {
    pub id: String,
    pub name: String,
    pub version: String,
    pub datastore_id: String,
    pub datastore_name: String,
    pub datastore_manager: String,
    /// The digest of the engine image; empty until it was fetched for the first time.
    pub image: String,
    pub image_tags: Vec<String>,
    pub packages: Vec<String>,
    pub active: bool,
    pub registry_ext: String,
    pub repl_strategy: String,
    pub default: bool,
}
