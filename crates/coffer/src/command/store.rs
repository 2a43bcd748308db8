//! `coffer store move`: all that is written down of a data directory, into another kind of store.

use coffer_server::{Directory, store_file, store_of};
use coffer_store::{Location, Store};
use serde_json::json;

use super::print;
use crate::cli;
use crate::failure::{Failure, Kind};
use crate::table::Format;

/// What the file of a store that was moved is called afterwards.
const MOVED: &str = "coffer.db.moved";

/// Does what was asked.
pub(crate) async fn run(format: Format, command: cli::Store) -> Result<(), Failure> {
    let cli::Store::Move { data, to } = command;
    let data = fs_err::canonicalize(&data)?;
    let directory = Directory::take_alone(&data).map_err(Failure::other)?;
    let from = store_of(&data).map_err(Failure::other)?;
    let to = match to {
        cli::StoreKind::File => store_file(&data),
        cli::StoreKind::Postgres(url) => Location::Postgres(url),
    };
    if from == to {
        let message = format!("the store of {} is {to} already", data.display());
        return Err(Failure::new(Kind::Refused, message, "coffer serve"));
    }
    if let Location::File(path) = &from
        && !path.exists()
    {
        let message = format!("{} has no store yet", data.display());
        return Err(Failure::new(
            Kind::Refused,
            message,
            "coffer serve --store postgres://USER@HOST/DATABASE makes it there",
        ));
    }
    let source = Store::open(&from).await.map_err(Failure::other)?;
    let moved = source.copy_to(&to).await;
    source.close().await;
    let moved = moved.map_err(Failure::other)?;
    // From here on the copy is the truth. The other stays, for who wants to look, where no server takes it for the store.
    directory.set_store(&to).map_err(Failure::other)?;
    let kept = match &from {
        Location::File(path) => {
            let kept = data.join(MOVED);
            fs_err::rename(path, &kept)?;
            kept.display().to_string()
        }
        Location::Postgres(_) => from.to_string(),
    };
    let rows: u64 = moved.iter().map(|(_, rows)| rows).sum();
    let tables: serde_json::Map<_, _> = moved.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    print(format, &json!({"store": to.to_string(), "rows": tables, "kept": kept}), || {
        format!(
            "{rows} rows are in {to} now; what they were copied from stays in {kept}\nnext: coffer serve --data {}\n",
            data.display()
        )
    })
}
