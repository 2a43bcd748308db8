//! `coffer engine ...`: the engine images of this machine. Needs no server.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_image::{Binary, Catalogue, Digest, Image, Observer, Progress, Release, Store};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{Engine as Command, ImageStore};
use crate::failure::{Failure, Kind};
use crate::table::{self, Format, List, Record};

/// Runs one of the commands.
pub(crate) async fn run(format: Format, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { store } => list(format, &store),
        Command::Fetch { store, datastore, version } => {
            let catalogue = load_catalogue(&store)?;
            let release = release(&catalogue, &datastore, &version)?;
            let (observer, done) = display(&format!("{datastore} {version}"));
            let image = open(&store)?.fetch(release, &observer).await;
            done();
            print(format, &image.map_err(failure)?)
        }
        Command::Import { store, datastore, version, path, digest, binary } => {
            let binary = match binary {
                Some(binary) => Binary::try_from(binary).map_err(|e| Failure::new(Kind::Usage, e, ""))?,
                None => release(&load_catalogue(&store)?, &datastore, &version)?.binary.clone(),
            };
            let digest = digest.map(|digest| digest.parse::<Digest>()).transpose().map_err(failure)?;
            let (observer, done) = display(&format!("{datastore} {version}"));
            let image = open(&store)?.import(&datastore, &version, binary, path, digest, &observer).await;
            done();
            print(format, &image.map_err(failure)?)
        }
    }
}

/// The catalogue that the arguments name, or the one that comes with this binary.
pub(crate) fn catalogue(path: Option<&Path>) -> Result<Catalogue, Failure> {
    match path {
        // Paths of sources are taken from where the catalogue is, and agents work elsewhere.
        Some(path) => Catalogue::load(&fs_err::canonicalize(path)?),
        None => Catalogue::built_in(),
    }
    .map_err(failure)
}

/// An error of the image store, with everything that led to it.
#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
pub(crate) fn failure(error: coffer_image::Error) -> Failure {
    Failure::other(coffer_image::in_full(&error))
}

fn load_catalogue(store: &ImageStore) -> Result<Catalogue, Failure> {
    catalogue(store.catalogue.as_deref())
}

fn open(store: &ImageStore) -> Result<Store, Failure> {
    Store::open(&store.data.join("engines")).map_err(failure)
}

fn release<'a>(catalogue: &'a Catalogue, datastore: &str, version: &str) -> Result<&'a Release, Failure> {
    catalogue.find(datastore, version).ok_or_else(|| {
        let known: Vec<_> =
            catalogue.releases.iter().map(|release| format!("{} {}", release.datastore, release.version)).collect();
        Failure::new(
            Kind::NotFound,
            format!("the catalogue has no {datastore} {version}"),
            format!("choose one of: {}", known.join(", ")),
        )
    })
}

fn list(format: Format, store: &ImageStore) -> Result<(), Failure> {
    let catalogue = load_catalogue(store)?;
    let images = open(store)?.list().map_err(failure)?;
    let found = |datastore: &str, version: &str| {
        images.iter().rfind(|image| image.datastore == datastore && image.version == version)
    };
    let row = |datastore: &str, version: &str, image: Option<&Image>| {
        let known = |value: fn(&Image) -> Value| image.map_or(Value::Null, value);
        vec![
            json!(datastore),
            json!(version),
            known(|image| json!(image.number)),
            known(|image| json!(image.digest.to_string())),
            known(|image| json!(image.source)),
        ]
    };
    let mut rows: Vec<_> = catalogue
        .releases
        .iter()
        .map(|release| row(&release.datastore, &release.version, found(&release.datastore, &release.version)))
        .collect();
    let listed =
        |image: &Image| catalogue.releases.iter().any(|r| r.datastore == image.datastore && r.version == image.version);
    rows.extend(images.iter().filter(|i| !listed(i)).map(|image| row(&image.datastore, &image.version, Some(image))));
    let columns = &["Datastore", "Version", "Number", "Digest", "Source"];
    Ok(table::print(&List { columns, rows }.render(format))?)
}

fn print(format: Format, image: &Image) -> Result<(), Failure> {
    let fields = [
        ("datastore", json!(image.datastore)),
        ("version", json!(image.version)),
        ("number", json!(image.number)),
        ("digest", json!(image.digest.to_string())),
        ("binary", json!(image.binary)),
        ("size_bytes", json!(image.size_bytes)),
        ("source", json!(image.source)),
    ];
    let record = Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    Ok(table::print(&record.render(format))?)
}

/// Shows what a fetch tells; the second value ends the display.
fn display(what: &str) -> (Observer, impl FnOnce() + use<>) {
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {prefix}: {msg}  {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    let (what, shown) = (what.to_owned(), bar.clone());
    let observer = move |progress: Progress| tell(&what, shown.as_ref(), &progress);
    (Arc::new(observer), move || {
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    })
}

#[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
fn tell(what: &str, bar: Option<&ProgressBar>, progress: &Progress) {
    // What moves is shown only where it can move; what stays is told once either way.
    let (moves, text) = match progress {
        Progress::Waiting => (false, "another process fetches it; waiting".to_owned()),
        Progress::Trying { source } => (false, format!("asking {source}")),
        Progress::Refused { source, cause } => (false, format!("{source} did not give it: {cause}")),
        Progress::Step(step) => (true, (*step).to_owned()),
        Progress::Downloaded { bytes, total } => (true, format!("{} of {} MB", bytes >> 20, total >> 20)),
        Progress::Ready { number, digest } => (false, format!("{number} is here, {digest}")),
    };
    match (bar, moves) {
        (Some(bar), true) => bar.set_message(text),
        (Some(bar), false) => bar.println(format!("{what}: {text}")),
        (None, true) => {}
        (None, false) => eprintln!("{what}: {text}"),
    }
}
