//! Limits and quotas.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `{"limits": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsBody {
    pub limits: Vec<Limit>,
}

/// One limit: what a project may have at most, or how often it may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Limit {
    /// `verb` is `ABSOLUTE`; -1 means any number.
    Absolute { verb: String, max_instances: i64, max_ram: i64, max_backups: i64, max_volumes: i64 },
    /// How many requests of a method there may be.
    Rate {
        #[serde(rename = "nextAvailable")]
        next_available: String,
        remaining: u64,
        unit: String,
        value: u64,
        verb: String,
        uri: String,
        regex: String,
    },
}

/// `{"quotas": [...]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotasBody {
    pub quotas: Vec<Quota>,
}

/// What a project may have of one resource, and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// `instances`, `ram`, `backups` or `volumes`.
    pub resource: String,
    pub in_use: i64,
    pub reserved: i64,
    /// -1 means any number.
    pub limit: i64,
}
