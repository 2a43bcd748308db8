//! What there is to choose from: datastores, their versions, flavors.

use coffer_wire::trove::datastore::{DatastoresBody, VersionsBody};
use coffer_wire::trove::flavor::FlavorsBody;
use coffer_wire::trove::link::encoded;
use serde_json::json;

use super::Session;
use crate::failure::{Failure, Kind};
use crate::table::{self, List};

/// `coffer datastore list`
pub(crate) async fn list_datastores(session: &Session) -> Result<(), Failure> {
    let body: DatastoresBody = session.trove.get("/datastores").await?;
    let rows = body.datastores.into_iter().map(|d| vec![json!(d.id), json!(d.name)]).collect();
    Ok(table::print(&List { columns: &["ID", "Name"], rows }.render(session.format))?)
}

/// `coffer datastore version list DATASTORE`
pub(crate) async fn list_versions(session: &Session, datastore: &str) -> Result<(), Failure> {
    let path = format!("/datastores/{}/versions", encoded(datastore));
    let body: VersionsBody = session.trove.get(&path).await.map_err(|failure| match failure.kind {
        Kind::NotFound => Failure { hint: "coffer datastore list".to_owned(), ..failure },
        _ => failure,
    })?;
    let rows = body.versions.into_iter().map(|v| vec![json!(v.id), json!(v.name), json!(v.version)]).collect();
    Ok(table::print(&List { columns: &["ID", "Name", "Version"], rows }.render(session.format))?)
}

/// `coffer flavor list`
pub(crate) async fn list_flavors(session: &Session) -> Result<(), Failure> {
    let body: FlavorsBody = session.trove.get("/flavors").await?;
    let row = |f: coffer_wire::trove::flavor::Flavor| {
        vec![json!(f.str_id), json!(f.name), json!(f.ram), json!(f.vcpus), json!(f.disk), json!(f.ephemeral)]
    };
    let rows = body.flavors.into_iter().map(row).collect();
    let columns = &["ID", "Name", "RAM", "vCPUs", "Disk", "Ephemeral"];
    Ok(table::print(&List { columns, rows }.render(session.format))?)
}
