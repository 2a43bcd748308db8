//! What there is to choose from: datastores, their versions, flavors.

use coffer_wire::trove::datastore::{DatastoresBody, VersionsBody};
use coffer_wire::trove::flavor::FlavorsBody;
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
    let path = format!("/datastores/{}/versions", segment(datastore));
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

/// A name as one segment of a path, whatever signs are in it.
pub(crate) fn segment(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(segment("redis"), "redis");
        assert_eq!(segment("../x y?é"), "..%2Fx%20y%3F%C3%A9");
    }
}
