//! Puts versions of catalogues into an image store:
//! `fetch --store DIR --catalogue FILE... [--from KIND...] [DATASTORE/VERSION...]`.
//!
//! Without names, all of them; with `--from`, only from sources of these kinds (`debian`, `pypi`, ...). Every version that is ready is printed as `READY <datastore> <number> <engine root>`; the
//! exit code is 1 if any could not be had. The tests set up their engines with it; people have `coffer engine fetch`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use coffer_image::{Catalogue, Observer, Progress, Release, Result, Store};

#[derive(Default)]
struct Arguments {
    store: PathBuf,
    catalogues: Vec<PathBuf>,
    kinds: Vec<String>,
    names: Vec<String>,
}

fn arguments() -> Arguments {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--store" => found.store = words.next().unwrap_or_default().into(),
            "--catalogue" => found.catalogues.extend(words.next().map(PathBuf::from)),
            "--from" => found.kinds.extend(words.next()),
            _ => found.names.push(word),
        }
    }
    found
}

fn wanted(arguments: &Arguments) -> Result<Vec<Release>> {
    let mut releases = Vec::new();
    for path in &arguments.catalogues {
        releases.extend(Catalogue::load(path)?.releases);
    }
    if !arguments.names.is_empty() {
        releases.retain(|r| arguments.names.contains(&format!("{}/{}", r.datastore, r.version)));
    }
    if !arguments.kinds.is_empty() {
        for release in &mut releases {
            release.sources.retain(|s| arguments.kinds.iter().any(|kind| kind == s.kind()));
        }
    }
    Ok(releases)
}

async fn fetch(store: &Store, release: &Release) -> Result<()> {
    let name = format!("{} {}", release.datastore, release.version);
    let observer: Observer = Arc::new(move |progress| match progress {
        Progress::Downloaded { .. } => {}
        other => eprintln!("{name}: {other:?}"),
    });
    let image = store.fetch(release, &observer).await?;
    let root = store.ensure_root(&image.digest).await?;
    println!("READY {} {} {}", image.datastore, image.number, root.display());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = arguments();
    let (store, releases) = match Store::open(&arguments.store).and_then(|s| Ok((s, wanted(&arguments)?))) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("{}", coffer_image::in_full(&error));
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for release in releases {
        if let Err(error) = fetch(&store, &release).await {
            eprintln!("{}", coffer_image::in_full(&error));
            code = ExitCode::FAILURE;
        }
    }
    code
}
