//! Instances as queries give them: everything of one, gathered into one JSON text, and a page in one row.
//!
//! Each column that the database hands over is allocated in one thread and freed in another, and each row wakes one.
//! For a page that cost more than all the rest. What is JSON in the store goes into the text as it is.
//!
//! The texts are SQLite's; [`Backend::sql`](crate::database::Backend::sql) makes them PostgreSQL's.

use std::net::{AddrParseError, IpAddr};

use coffer_core::id::{FlavorId, Generation, InstanceId, OperationId, ProjectId, VersionId};
use coffer_core::instance::{Fault, Instance, Kind, Observed};
use coffer_core::operation::Phase;
use coffer_core::spec::Settings;
use jiff::Timestamp;
use serde::Deserialize;

use crate::Error;
use crate::group::GatheredGroup;
use crate::row::{InstanceRow, OpenOperation, join_address};

/// An instance, as [`Gathered`] reads it.
macro_rules! instance_json {
    () => {
        concat!(
            "'[' || CAST(json_array(i.id, i.project_id, i.name, i.version_id, i.flavor, i.volume_gib, \
                 json_array(i.network, i.address), i.generation, CAST(i.built AS INTEGER), i.created_at, i.updated_at) AS TEXT) \
                 || ',' || i.settings \
                 || ',' || i.own || ',' || COALESCE((SELECT ",
            $crate::group::group_json!(),
            " FROM configurations g WHERE g.id = i.group_id), 'null') || ',' || COALESCE(i.fault, 'null') || ']'"
        )
    };
}
pub(crate) use instance_json;

/// Everything that is shown of instances, as [`Shown`] reads it. The joins find at most one row each.
macro_rules! select_shown {
    ($rest:literal) => {
        concat!(
            "SELECT '[' || ",
            instance_json!(),
            " || ',' || COALESCE(s.seen, 'null') || ',' || CASE WHEN o.id IS NULL THEN 'null' ELSE \
                 '[' || CAST(json_array(o.id, o.kind, o.target, o.created_at, o.updated_at) AS TEXT) || ',' || o.phase || ']' END \
                 || ']' AS shown \
             FROM instances i LEFT JOIN observed s ON s.instance_id = i.id \
             LEFT JOIN operations o ON o.instance_id = i.id AND o.is_open WHERE i.deleted_at IS NULL ",
            $rest
        )
    };
}
pub(crate) use select_shown;

/// The first `$2` of what is shown by ascending id, as [`page`] reads it; null where there is none.
macro_rules! select_page {
    // SQLite prepares a statement anew at every use when its limit is nothing but a parameter.
    ($rest:literal) => {
        concat!(
            "SELECT string_agg(shown, ' ') FROM (",
            select_shown!($rest),
            " ORDER BY i.id LIMIT CAST($2 AS BIGINT)) AS page"
        )
    };
}
pub(crate) use select_page;

/// An instance.
#[derive(Deserialize)]
pub(crate) struct Gathered(Plain, Settings, Settings, Option<GatheredGroup>, Option<Fault>);

#[derive(Deserialize)]
struct Plain {
    id: InstanceId,
    project: ProjectId,
    name: String,
    version: VersionId,
    flavor: FlavorId,
    volume_gib: u32,
    address: Address,
    generation: Generation,
    /// SQLite has no other truth than 1, so it is that everywhere.
    built: u8,
    created_at: Micros,
    updated_at: Micros,
}

/// Everything that is shown of an instance.
#[derive(Deserialize)]
pub(crate) struct Shown(Gathered, Option<Observed>, Option<(PlainOperation, Phase)>);

#[derive(Deserialize)]
struct PlainOperation {
    id: OperationId,
    kind: Kind,
    target: Option<VersionId>,
    created_at: Micros,
    updated_at: Micros,
}

/// An address as it is stored: in two columns.
#[derive(Deserialize)]
#[serde(try_from = "(String, u32)")]
struct Address(IpAddr);

impl TryFrom<(String, u32)> for Address {
    type Error = AddrParseError;

    fn try_from((network, number): (String, u32)) -> Result<Self, AddrParseError> {
        join_address(&network, number).map(Self)
    }
}

/// A time as it is stored.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Micros(pub(crate) Timestamp);

impl TryFrom<i64> for Micros {
    type Error = jiff::Error;

    fn try_from(micros: i64) -> Result<Self, jiff::Error> {
        Timestamp::from_microsecond(micros).map(Self)
    }
}

impl From<Gathered> for Instance {
    fn from(Gathered(plain, settings, own, group, fault): Gathered) -> Self {
        Self {
            id: plain.id,
            project: plain.project,
            name: plain.name,
            version: plain.version,
            flavor: plain.flavor,
            volume_gib: plain.volume_gib,
            address: plain.address.0,
            generation: plain.generation,
            settings,
            own,
            group: group.map(Into::into),
            built: plain.built != 0,
            fault,
            created_at: plain.created_at.0,
            updated_at: plain.updated_at.0,
        }
    }
}

impl From<Shown> for InstanceRow {
    fn from(Shown(instance, observed, open): Shown) -> Self {
        let open = open.map(|(plain, phase)| OpenOperation {
            id: plain.id,
            kind: plain.kind,
            target: plain.target,
            phase,
            created_at: plain.created_at.0,
            updated_at: plain.updated_at.0,
        });
        Self { instance: instance.into(), observed, open }
    }
}

/// The instances of such a text, in its order.
pub(crate) fn page(text: &str) -> Result<Vec<InstanceRow>, Error> {
    let mut rows = serde_json::Deserializer::from_str(text).into_iter::<Shown>();
    let mut page = Vec::new();
    while let Some(row) = rows.next() {
        let row = row.map_err(|e| {
            // The id is the first text of each.
            let id = text.get(rows.byte_offset()..).and_then(|rest| rest.split('"').nth(1)).unwrap_or_default();
            Error::Unreadable { table: "instance", id: id.to_owned(), why: e.to_string() }
        })?;
        page.push(row.into());
    }
    Ok(page)
}
