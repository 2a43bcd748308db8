//! The part that clients feel, asked of the engine.

use std::time::Duration;

use coffer_core::engine::redis::config::Config;
use coffer_core::engine::redis::proof::{SampleKey, compare};
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use rustix::process::Signal;
use tokio::time::Instant;

use super::launch::QUICK_HZ;
use super::measures::unsafe_to_stop;
use super::{Client, Fingerprint, Temporary, fingerprint};
use crate::sandbox::Process;
use crate::site::{Error, until_ended};

/// How long writes wait before the engine lets them go on by itself. They are answered by the old engine then and lost
/// with nothing, since it keeps them; only the fingerprint no longer fits.
const WRITES_WAIT: Duration = Duration::from_secs(60);
/// Before 6.2 nobody can end it, the agent neither.
const ALL_WAIT: Duration = Duration::from_secs(10);

/// Writes wait.
#[derive(Clone, Debug)]
pub struct Quiesced {
    pub fingerprint: Fingerprint,
    /// When the engine lets writes go on by itself.
    pub until: Instant,
}

impl Client {
    /// Makes writes wait and takes the fingerprint. The gap begins with the call. Refused with [`Error::Unsafe`], and
    /// nothing waits, unless everything acknowledged is in an append-only file.
    pub async fn quiesce(&self, _spec: &EngineSpec, temporary: &Temporary) -> Result<Quiesced, Error> {
        let (quiesced, info) = if self.pauses_writes {
            self.pause_writes(&temporary.sample).await?
        } else {
            self.pause_all(&temporary.sample).await?
        };
        let reason = match unsafe_to_stop(&info) {
            Some(reason) => Ok(Some(reason)),
            None => self.broken().await,
        };
        if !matches!(reason, Ok(None)) {
            self.resume().await?;
        }
        match reason? {
            Some(reason) => Err(Error::Unsafe { reason }),
            None => Ok(quiesced),
        }
    }

    async fn pause_writes(&self, sample: &[SampleKey]) -> Result<(Quiesced, Info), Error> {
        let until = Instant::now() + WRITES_WAIT;
        let pause = millis(WRITES_WAIT);
        self.ask::<String>("CLIENT PAUSE", redis::cmd("CLIENT").arg("PAUSE").arg(pause).arg("WRITE")).await?;
        let (fingerprint, info) = match self.fingerprint(sample, true).await {
            Ok(taken) => taken,
            Err(e) => {
                self.resume().await?;
                return Err(e);
            }
        };
        Ok((Quiesced { fingerprint, until }, info))
    }

    /// Questions and pause in one, because a paused engine answers nobody.
    async fn pause_all(&self, sample: &[SampleKey]) -> Result<(Quiesced, Info), Error> {
        self.save_users().await?;
        self.set("hz", QUICK_HZ).await?;
        let until = Instant::now() + ALL_WAIT;
        let mut questions = fingerprint::questions(self, sample);
        questions.atomic().cmd("CLIENT").arg("PAUSE").arg(millis(ALL_WAIT)).ignore();
        let answers = self.ask_all("EXEC", &mut questions).await?;
        let (fingerprint, info) = fingerprint::read(self, sample, answers)?;
        Ok((Quiesced { fingerprint, until }, info))
    }

    async fn fingerprint(&self, sample: &[SampleKey], types: bool) -> Result<(Fingerprint, Info), Error> {
        let mut questions = fingerprint::questions(self, sample);
        let answers = self.ask_all("the questions of the proof", &mut questions).await?;
        let (mut fingerprint, info) = fingerprint::read(self, sample, answers)?;
        if types {
            fingerprint.types = fingerprint::count_types(self, &fingerprint).await?;
        }
        Ok((fingerprint, info))
    }

    /// Lets writes go on. Can be called again, and when they never waited. Before 6.2 they go on by themselves at
    /// [`Quiesced::until`], and this does not wait for it.
    pub async fn unquiesce(&self, _spec: &EngineSpec) -> Result<(), Error> {
        self.resume().await
    }

    async fn resume(&self) -> Result<(), Error> {
        if !self.pauses_writes {
            return Ok(());
        }
        self.ask::<String>("CLIENT UNPAUSE", redis::cmd("CLIENT").arg("UNPAUSE")).await.map(drop)
    }

    /// Ends the engine with all that it acknowledged on disk. Fails with [`Error::Unsafe`] or [`Error::Late`] and the
    /// engine goes on running, or with [`Error::Ended`] and it is gone, having kept what it could. Before 6.2 it is not
    /// asked again whether it is safe, because [`Client::quiesce`] has and it answers nobody since.
    pub async fn stop(self, spec: &EngineSpec, process: &Process, within: Duration) -> Result<(), Error> {
        if self.pauses_writes {
            if let Some(reason) = unsafe_to_stop(&self.info("persistence").await?) {
                return Err(Error::Unsafe { reason });
            }
            self.save_users().await?;
            // It answers by hanging up, or says why it does not end.
            let answer = self.ask::<String>("SHUTDOWN", redis::cmd("SHUTDOWN").arg("NOSAVE")).await;
            if let Err(refused @ Error::Refused { .. }) = answer {
                return Err(refused);
            }
        } else {
            // By a signal, since an engine whose clients wait takes no command. Without save points that is the same.
            process.signal(Signal::TERM)?;
        }
        until_ended(spec, process, within).await
    }

    /// Whether the engine is what `spec` says and holds what `before` says. Empty: it is proven. For an engine that was
    /// started closed.
    pub async fn prove(&self, spec: &EngineSpec, before: &Fingerprint) -> Result<Vec<Finding>, Error> {
        let mut findings = self.verify_closed(spec).await?;
        findings.extend(self.compare(before).await?);
        Ok(findings)
    }

    /// What it holds otherwise than `before` says.
    pub(crate) async fn compare(&self, before: &Fingerprint) -> Result<Vec<Finding>, Error> {
        let sample: Vec<SampleKey> = before.sample.iter().map(|s| s.at.clone()).collect();
        let (after, _) = self.fingerprint(&sample, before.types.is_some()).await?;
        Ok(compare(before, &after))
    }

    /// Whether it has its port.
    pub async fn listens(&self) -> Result<bool, Error> {
        Ok(self.config("port").await?.get("port").is_some_and(|port| port != "0"))
    }

    /// Opens its port, or closes it: those who are connected stay. Only where [`super::opens_in_place`]. Can be called again.
    pub async fn listen(&self, spec: &EngineSpec, wanted: bool) -> Result<(), Error> {
        let port = Config::of(spec, None).value("port").unwrap_or_default();
        self.set("port", if wanted { &port } else { "0" }).await
    }

    /// Ends what makes an engine that was started closed other than clients may have it. Can be called again.
    pub async fn lift(&self, spec: &EngineSpec) -> Result<(), Error> {
        self.set("maxmemory", &Config::of(spec, None).value("maxmemory").unwrap_or_default()).await
    }
}

type Info = std::collections::BTreeMap<String, String>;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
