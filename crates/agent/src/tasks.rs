//! The tasks that run beside the engine: fetching images, looking, and changing databases and accounts. None of them
//! changes what serves.

mod back;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_core::account::{Answer, Refusal, Request};
use coffer_core::finding::{Cause, Finding, Severity, refuses};
use coffer_core::gap::Circumstances;
use coffer_core::id::Digest;
use coffer_core::spec::{EngineSpec, ImageWanted};
use coffer_core::task::{ImageFound, Learned, Order, Outcome, Preview, Task, TaskResult};
use coffer_image::{Image, Release, Store};

use crate::cause::{cause, image_cause};
use crate::driver::{self, Client, Seen};
use crate::engine::EngineHost;
use crate::sandbox::User;
use crate::site::{Error, Paths, PreImage, Secrets, Site, copy_millis};
use crate::state::{Birth, KeptPreimage, State};

/// What a task that looks needs of the instance.
struct Sight {
    images: Store,
    paths: Paths,
    secrets: Secrets,
    user: User,
    /// What runs now, and as which process.
    engine: Option<EngineSpec>,
    birth: Option<Birth>,
    /// The pre-images that are kept.
    preimages: Vec<KeptPreimage>,
}

/// The work of this task, to be awaited beside everything else.
pub(crate) fn work(order: Order, host: &EngineHost, state: &State) -> impl Future<Output = TaskResult> + use<> {
    let sight = Sight {
        images: host.images().clone(),
        paths: host.paths.clone(),
        secrets: host.secrets.clone(),
        user: host.user,
        engine: state.engine.clone(),
        birth: host.birth(),
        preimages: state.preimages.clone(),
    };
    async move {
        let mut learned = Learned::default();
        let end = match &order.task {
            Task::Fetch { image } => sight.fetch(image, &mut learned).await,
            Task::Check { to, try_target } => sight.check(to, *try_target, &mut learned).await,
            Task::CheckBack { to, restores, down } => sight.check_back(to, *restores, *down, &mut learned).await,
            Task::Verify { expect } => sight.verify(expect, &mut learned).await,
            Task::Accounts { request } => sight.accounts(request, &mut learned).await,
            // What touches the engine or what is kept the supervisor does itself.
            Task::Section(_) | Task::Configure { .. } | Task::Finalize { .. } => Ok(()),
        };
        let learned = Box::new(learned);
        let outcome = match end {
            Ok(()) => Outcome::Done(learned),
            Err(cause) => Outcome::Failed { cause, learned },
        };
        TaskResult { id: order.id, outcome }
    }
}

impl Sight {
    async fn fetch(&self, wanted: &ImageWanted, learned: &mut Learned) -> Result<(), Cause> {
        let image = match find(&self.images, wanted)? {
            Some(image) => image,
            None => fetch(&self.images, wanted).await?,
        };
        self.images.ensure_root(&image.digest).await.map_err(|e| image_cause(&e))?;
        learned.image = Some(ImageFound {
            digest: Digest(image.digest.to_string()),
            number: image
                .number
                .parse()
                .map_err(|e: coffer_core::datastore::BadNumber| Cause::new(e.to_string(), ""))?,
            source: image.source,
        });
        Ok(())
    }

    async fn check(&self, to: &EngineSpec, try_target: bool, learned: &mut Learned) -> Result<(), Cause> {
        let Some(from) = &self.engine else {
            return Err(Cause::new("the instance does not run an engine yet", ""));
        };
        let client = Client::connect(from, &self.paths, &self.secrets).await.map_err(cause)?;
        let root = self.root(to).await;
        let seen = client.look(from, to, &self.paths, root.as_deref().ok()).await.map_err(cause)?;
        let circumstances = driver::circumstances(&client, &self.paths).await.map_err(cause)?;
        learned.preview = Some(self.preview(from, to, &seen, Some(circumstances))?);
        learned.findings = seen.findings;
        if try_target {
            learned.findings.extend(self.tried(to, root, &self.paths.conf).await);
        }
        judged(to, &learned.findings)
    }

    /// Why the target binary would not start, if it would not or cannot be asked.
    async fn tried(&self, to: &EngineSpec, root: Result<PathBuf, Finding>, conf: &Path) -> Option<Finding> {
        match root {
            Ok(root) => self.try_target(to, &root, conf).await.err(),
            Err(why) => Some(why),
        }
    }

    /// The target's engine root. Where its image is not here yet, the upgrade will look again after it was fetched.
    async fn root(&self, to: &EngineSpec) -> Result<PathBuf, Finding> {
        let root = match find(&self.images, &to.image) {
            Ok(Some(image)) => self.images.ensure_root(&image.digest).await,
            Ok(None) => {
                return Err(Finding::notice(
                    "image.absent",
                    to.label(),
                    "its image is not on this host yet, so the target binary was not tried",
                    "the upgrade fetches and tries it before anything is stopped",
                ));
            }
            Err(cause) => return Err(Finding::error("image.digest", to.label(), cause.message, cause.hint)),
        };
        root.map_err(|e| refused(to, image_cause(&e).message))
    }

    /// Asks the target binary itself.
    async fn try_target(&self, to: &EngineSpec, root: &Path, conf: &Path) -> Result<(), Finding> {
        driver::try_target(to, Site { root, paths: &self.paths, secrets: &self.secrets, user: self.user }, conf)
            .await
            .map_err(|e| refused(to, format!("it does not start on its configuration: {}", cause(e).message)))
    }

    fn preview(
        &self,
        from: &EngineSpec,
        to: &EngineSpec,
        seen: &Seen,
        circumstances: Option<Circumstances>,
    ) -> Result<Preview, Cause> {
        let estimate = PreImage::estimate(&self.paths, driver::kinds(from)).map_err(cause)?;
        // The append-only file that is written for the stop is not there yet. On disk data takes no more than in memory.
        let data = seen.data_bytes.max(estimate.bytes);
        let gap_millis =
            expected_gap_millis(from, to, estimate.stale_bytes, Volume { bytes: data, files: estimate.files });
        Ok(Preview {
            preimage_method: estimate.method,
            preimage_bytes: data,
            preimage_millis: estimate.millis,
            while_serving: seen.while_serving.iter().cloned().collect(),
            stops: format!("{} is stopped and {} started on the same data", from.label(), to.label()),
            gap_millis,
            circumstances,
        })
    }

    async fn accounts(&self, request: &Request, learned: &mut Learned) -> Result<(), Cause> {
        let Some(spec) = &self.engine else {
            return Err(Cause::new("the instance does not run an engine yet", ""));
        };
        let client = Client::connect(spec, &self.paths, &self.secrets).await.map_err(cause)?;
        learned.accounts = Some(match client.accounts(request).await {
            Err(Error::Refused { command, reason }) => {
                Answer::Refused(Refusal::ByEngine(format!("{command}: {reason}")))
            }
            other => other.map_err(cause)?,
        });
        Ok(())
    }

    async fn verify(&self, expect: &EngineSpec, learned: &mut Learned) -> Result<(), Cause> {
        let client = Client::connect(expect, &self.paths, &self.secrets).await.map_err(cause)?;
        learned.findings = client.verify(expect).await.map_err(cause)?;
        if refuses(&learned.findings) {
            let all: Vec<_> = learned.findings.iter().map(ToString::to_string).collect();
            return Err(Cause::new(format!("{} is not what runs: {}", expect.label(), all.join("; ")), ""));
        }
        Ok(())
    }
}

/// A failure where one of the findings refuses.
fn judged(to: &EngineSpec, findings: &[Finding]) -> Result<(), Cause> {
    if !refuses(findings) {
        return Ok(());
    }
    let errors: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).map(ToString::to_string).collect();
    Err(Cause::new(
        format!("the checks refuse {}: {}", to.label(), errors.join("; ")),
        "mend what they name, then ask again; nothing was touched",
    ))
}

/// The target binary cannot be started as it would be.
fn refused(to: &EngineSpec, message: String) -> Finding {
    Finding::error("target.refuses", to.label(), message, "change the setting that it names, or choose another version")
}

/// How much data there is.
#[derive(Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// For how long clients will not be able to write, as far as can be told: so many bytes are to be copied, and the data are to be
/// loaded.
pub(crate) fn expected_gap_millis(from: &EngineSpec, to: &EngineSpec, copied: u64, data: Volume) -> u64 {
    let load = driver::load_bytes_a_second(to).map_or(0, |a_second| data.bytes * 1000 / a_second);
    driver::stop_and_start_millis(from, to, data.files) + copy_millis(copied) + load
}

/// The engine root of an image that was fetched before.
pub(crate) async fn engine_root(images: &Store, wanted: &ImageWanted) -> Result<PathBuf, Cause> {
    let Some(image) = find(images, wanted)? else {
        return Err(Cause::new(
            format!("the image of {} {} is not on this host", wanted.datastore, wanted.version),
            format!("coffer engine fetch {} {}", wanted.datastore, wanted.version),
        ));
    };
    images.ensure_root(&image.digest).await.map_err(|e| image_cause(&e))
}

/// The image, if it is here. With a digest that is wanted, nothing else will do.
fn find(images: &Store, wanted: &ImageWanted) -> Result<Option<Image>, Cause> {
    let datastore = wanted.datastore.name();
    let Some(digest) = &wanted.digest else {
        return images.find(datastore, &wanted.version).map_err(|e| image_cause(&e));
    };
    let all = images.list().map_err(|e| image_cause(&e))?;
    Ok(all.into_iter().find(|image| image.digest.to_string() == digest.0))
}

async fn fetch(images: &Store, wanted: &ImageWanted) -> Result<Image, Cause> {
    let release: Release = serde_json::from_value(wanted.sources.clone()).map_err(|e| {
        Cause::new(format!("the catalogue's entry of {} {} cannot be read: {e}", wanted.datastore, wanted.version), "")
    })?;
    let observer: coffer_image::Observer = Arc::new(|progress| tracing::info!(?progress, "fetch"));
    let image = images.fetch(&release, &observer).await.map_err(|e| image_cause(&e))?;
    match &wanted.digest {
        Some(digest) if image.digest.to_string() != digest.0 => Err(Cause::new(
            format!(
                "the image of {} {} that was fetched has digest {}, but {} was recorded for this version",
                wanted.datastore, wanted.version, image.digest, digest
            ),
            "import the recorded image with coffer engine import, or make the new one a version of its own",
        )),
        _ => Ok(image),
    }
}
