//! The engine of this instance: started from a spec, found again, ended.
//!
//! Whoever asks names the spec; the host of the engine knows the volume, the image store and whom the engine runs as. No
//! second engine can start while one runs on the volume: the engine itself holds the lock. Clients get to it by the
//! [gate](crate::gate) alone.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_core::finding::Cause;
use coffer_core::gate::{Gate as GateState, Level};
use coffer_core::id::{Digest, InstanceId};
use coffer_core::instance::GateSeen;
use coffer_core::spec::EngineSpec;
use coffer_wire::agent::Identity;
use rustix::process::Signal;

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use crate::cause::{AGAIN_HINT, cause, gate_cause, unstarted};
use crate::drift::{self, Print};
use crate::driver::{self, Client};
use crate::gate::{self, Gate};
use crate::sandbox::{self, Exit, Process, Step, User};
use crate::site::{self, Error, Exposure, Paths, Port, Secrets, Site, last_line, last_words};
use crate::state::Birth;
use crate::tasks::Volume;
use crate::{sql, tasks};

/// What the engine says, in the agent's directory of the volume.
const ENGINE_LOG: &str = "engine.log";
/// What the engine holds while it lives, and where the next agent reads which process it is.
const ENGINE_LOCK: &str = "engine.lock";
/// Where more is to be found.
const LOG_HINT: &str = "look into the engine's log in the instance's volume: agent/engine.log";
/// How long an engine may say nothing at all after its start, not even that it is loading.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long an engine may take to end cleanly. With its data in an append-only file it needs milliseconds.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long an engine that nobody can ask may take to be gone after it hung up.
const ENDING: Duration = Duration::from_secs(1);
/// How long after that its end is waited for where only the reason is wanted: sockets are closed a moment before.
const HUNG_UP: Duration = Duration::from_millis(100);
/// How long one that is said to be down is given to answer all the same.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Between two attempts to reach one that may be ending.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a killed process may take to be gone. Only a kernel that writes out its memory needs more than an instant.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long the old engine may take to answer what was sent to it before new connections had to wait. Those who wait feel it.
const DRAIN_LIMIT: Duration = Duration::from_millis(150);

/// Where an instance's engine runs, and the engine if there is one.
pub(crate) struct EngineHost {
    pub(crate) instance: InstanceId,
    pub(crate) paths: Paths,
    pub(crate) secrets: Secrets,
    images: coffer_image::Store,
    pub(crate) user: User,
    cgroup: String,
    process: Option<Process>,
    /// Where the engine's part of the log begins: those before it wrote there too.
    log_from: u64,
    isolation: Option<Vec<String>>,
    gate: Option<Gate>,
    /// No gate goes further than this here: as configured, or as it turned out.
    highest: gate::Found,
    /// How long connections wait where nothing else was said.
    hold_limit: Duration,
    /// What was mended before an engine was started, as events that nobody has taken yet.
    mended: Vec<(&'static str, String)>,
    /// What the configuration file held with which an engine was started, where nobody has taken that yet.
    config: Option<Print>,
    /// The program of an image with which one was started, as that was then.
    program: Option<(Digest, Print)>,
}

impl EngineHost {
    /// Takes over the volume, and the engine if one runs on it.
    pub(crate) fn take_over(volume: &Path, identity: &Identity) -> Result<Self, crate::Error> {
        let paths = Paths::of(volume);
        let process = sandbox::adopt(&paths.agent.join(ENGINE_LOCK))?;
        Ok(Self {
            instance: identity.instance,
            secrets: Secrets {
                tenant: SecretString::from(identity.tenant_password.clone()),
                agent: agent_password(&identity.token),
            },
            images: coffer_image::Store::open(Path::new(&identity.image_store))?,
            user: match identity.engine_uid {
                Some(uid) => User::Fixed { uid, gid: uid },
                None => User::Own,
            },
            cgroup: identity.instance.to_string(),
            process,
            log_from: 0,
            isolation: None,
            gate: None,
            highest: gate::Found { level: identity.gate, why: String::new() },
            hold_limit: Duration::from_secs(identity.hold_seconds),
            mended: Vec::new(),
            config: None,
            program: None,
            paths,
        })
    }

    pub(crate) fn images(&self) -> &coffer_image::Store {
        &self.images
    }

    /// How the engine is isolated and what of its flavor is enforced, in sentences; `None` when an earlier agent started it.
    pub(crate) fn isolation(&self) -> Option<Vec<String>> {
        self.isolation.clone()
    }

    /// The engine, if it runs.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref().filter(|p| p.is_alive())
    }

    /// Whether the engine has ended, and nobody has taken note of that yet.
    pub(crate) fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.is_alive())
    }

    /// Which process the engine is, if it runs.
    pub(crate) fn birth(&self) -> Option<Birth> {
        self.process().map(|process| Birth { pid: process.pid(), start_ticks: process.start_ticks() })
    }

    /// Starts the engine and waits until it answers the agent and has its data. Running already, it is only waited for. Clients
    /// are let in where they are to be.
    pub(crate) async fn start(&mut self, spec: &EngineSpec, exposure: Exposure) -> Result<Client, Cause> {
        if self.process().is_none() {
            self.launch(spec, exposure).await?;
        }
        let client = match self.ready(spec).await {
            Err(cause) if self.gate_is_broken() => {
                // It could not be given a socket. It gets the port itself from now on.
                self.kill().await?;
                self.give_up_gate(cause.message);
                self.launch(spec, exposure).await?;
                self.ready(spec).await?
            }
            Err(cause) if self.process.is_none() => {
                let mended = driver::mend(spec, &self.paths, &cause.message).await;
                let mended = mended.inspect_err(|error| tracing::warn!(%error, "the data cannot be mended"));
                self.mended.push(("data.mended", mended.ok().flatten().ok_or(cause)?));
                self.launch(spec, exposure).await?;
                self.ready(spec).await?
            }
            other => other?,
        };
        if exposure == Exposure::Open
            && let Err(cause) = self.open(spec, &client).await
        {
            return Err(self.hung_up(spec).await.unwrap_or(cause));
        }
        Ok(client)
    }

    /// How an engine ended that hung up on the agent. That says more than whose answer did not come.
    async fn hung_up(&mut self, spec: &EngineSpec) -> Option<Cause> {
        let exit = tokio::time::timeout(HUNG_UP, self.ended()).await.ok()?;
        Some(self.ended_at_start(spec, exit.unwrap_or(Exit::Unknown)))
    }

    fn ended_at_start(&mut self, spec: &EngineSpec, exit: Exit) -> Cause {
        self.process = None;
        let message =
            format!("{} ended while it started ({exit}); its last words: {}", spec.label(), self.last_words());
        Cause::new(message, LOG_HINT)
    }

    async fn launch(&mut self, spec: &EngineSpec, exposure: Exposure) -> Result<(), Cause> {
        let root = tasks::engine_root(&self.images, &spec.image).await?;
        self.give_files()?;
        driver::prepare_files(spec, self.site(&root)).await.map_err(cause)?;
        self.config = drift::print_of_config(&driver::config_file(spec, &self.paths));
        let program = drift::print_of_program(&root, &driver::program(spec, &root));
        self.program = spec.image.digest.clone().zip(program);
        loop {
            let level = self.gate(spec)?.level();
            let port = match (level, exposure) {
                (Level::Steered, _) | (Level::Own, Exposure::Open) => Port::AtStart,
                (Level::Shared, Exposure::Open) if !driver::opens_in_place(spec) => Port::AtStart,
                (Level::Shared | Level::Own, _) => Port::Later,
            };
            let mut launch = driver::launch(spec, self.site(&root), exposure, port).map_err(cause)?;
            launch.log = self.paths.agent.join(ENGINE_LOG);
            launch.lock = self.paths.agent.join(ENGINE_LOCK);
            launch.gated = level != Level::Own;
            launch.cgroup = Some(self.limits_of_start(spec));
            self.log_from = fs_err::metadata(&launch.log).map_or(0, |log| log.len());
            let started = match sandbox::start(&launch) {
                Ok(started) => started,
                Err(error @ sandbox::Error::Step { step: Step::Gate, .. }) => {
                    self.give_up_gate(unstarted(&error).to_string());
                    continue;
                }
                Err(error) => return Err(unstarted(&error)),
            };
            self.isolation = Some(describe(&started));
            let process = self.process.insert(started.process);
            if let (Some(gate), Some(notify)) = (&mut self.gate, &started.notify)
                && let Err(error) = gate.started(process, notify)
            {
                self.kill().await?;
                return Err(gate_cause(&error));
            }
            return Ok(());
        }
    }

    /// Gives files that are somebody else's to the engine's user, who could not use them. Harms no engine that runs.
    pub(crate) fn give_files(&mut self) -> Result<(), Cause> {
        let given = site::give_back(&self.paths, self.user).map_err(|error| cause(error.into()))?;
        if given.files > 0 {
            self.mended.push(("files.given", given.to_string()));
        }
        Ok(())
    }

    /// What was mended, with the names of the events, each once.
    pub(crate) fn take_mended(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.mended)
    }

    /// What the configuration file held with which an engine was started, once.
    pub(crate) fn take_config(&mut self) -> Option<Print> {
        self.config.take()
    }

    /// The program with which an engine was started, and of which image it is, once.
    pub(crate) fn take_program(&mut self) -> Option<(Digest, Print)> {
        self.program.take()
    }

    /// Where the engine root of an image is, whether or not it is there.
    pub(crate) fn root_of(&self, image: &Digest) -> Option<PathBuf> {
        Some(self.images.root_path(&image.0.parse().ok()?))
    }

    /// Where engines of this root are at home.
    fn site<'a>(&'a self, root: &'a Path) -> Site<'a> {
        Site { root, paths: &self.paths, secrets: &self.secrets, user: self.user }
    }

    fn limits(&self, spec: &EngineSpec) -> sandbox::CgroupLimits {
        sandbox::CgroupLimits {
            name: self.cgroup.clone(),
            memory_bytes: spec.memory_bytes,
            cpu_millis: Some(spec.cpu_millis),
        }
    }

    /// Until clients are let in an engine may have all the processors: nobody is served meanwhile, and somebody may wait.
    fn limits_of_start(&self, spec: &EngineSpec) -> sandbox::CgroupLimits {
        sandbox::CgroupLimits { cpu_millis: None, ..self.limits(spec) }
    }

    /// The engine's own step after a change of its version, while nobody else can see it. Gives what it said at its end.
    pub(crate) async fn own_step(&self, spec: &EngineSpec, client: &Client) -> Result<String, Cause> {
        let root = tasks::engine_root(&self.images, &spec.image).await?;
        client.own_step(self.site(&root), Some(self.limits_of_start(spec))).await.map_err(cause)
    }

    /// Asks the engine's program whether it would start with this, beside the engine that runs.
    pub(crate) async fn try_target(&self, spec: &EngineSpec) -> Result<(), Cause> {
        let root = tasks::engine_root(&self.images, &spec.image).await?;
        let tried = driver::try_target(spec, self.site(&root), &self.paths.conf).await;
        tried.map_err(|error| {
            let why = cause(error).message;
            Cause::new(
                format!("{} does not start with its new settings: {why}", spec.label()),
                "change the setting that it names; nothing was stopped",
            )
        })
    }

    /// The gate, met when it is first needed. One that could not go far is tried anew with each engine.
    fn gate(&mut self, spec: &EngineSpec) -> Result<&mut Gate, Cause> {
        let runs = self.process().is_some();
        let met = self.gate.take().filter(|gate| runs || gate.level() != Level::Own);
        let gate = match met {
            Some(gate) => gate,
            None => {
                let address = SocketAddr::from((spec.address, spec.datastore().port()));
                let mut found = gate::find(self.highest.level);
                if found.level == self.highest.level && !self.highest.why.is_empty() {
                    found.why.clone_from(&self.highest.why);
                }
                let engine = self.process.as_ref().filter(|_| runs);
                Gate::meet(&self.paths.agent, address, found, self.hold_limit, engine).map_err(|e| gate_cause(&e))?
            }
        };
        Ok(self.gate.insert(gate))
    }

    /// Engines bind their port themselves from now on, for this reason.
    fn give_up_gate(&mut self, why: String) {
        tracing::error!(why, "there is no gate from now on");
        if let Some(mut gate) = self.gate.take()
            && let Err(error) = gate.retire(why.clone())
        {
            tracing::warn!(%error, "gate");
        }
        self.highest = gate::Found { level: Level::Own, why };
    }

    fn gate_is_broken(&mut self) -> bool {
        let broken = |gate: &mut Gate| gate.look().is_ok() && gate.is_broken();
        self.gate.as_mut().is_some_and(broken)
    }

    /// New connections wait from now on, `limit` at the most, and the engine has answered what it had been sent before; where it
    /// takes too long over that, it is told how many are still busy. Where connections cannot be made to wait, nothing happens.
    pub(crate) async fn hold(&mut self, spec: &EngineSpec, client: &Client, limit: Duration) -> Result<String, Cause> {
        let gate = self.gate(spec)?;
        let level = gate.level();
        gate.hold(limit).map_err(|e| gate_cause(&e))?;
        match level {
            Level::Steered => {}
            Level::Shared if driver::opens_in_place(spec) => client.listen(spec, false).await.map_err(cause)?,
            Level::Shared | Level::Own => return Ok(String::new()),
        }
        let address = SocketAddr::from((spec.address, spec.datastore().port()));
        let drained = gate::drain(address, self.gate(spec)?.engine_socket(), DRAIN_LIMIT).await;
        Ok(drained.to_string())
    }

    /// Those who wait go on waiting for so long. For the way back, which has its own time.
    pub(crate) fn hold_on(&mut self, spec: &EngineSpec, limit: Duration) -> Result<(), Cause> {
        let gate = self.gate(spec)?;
        if matches!(gate.state(), Some(GateState::Holding { .. })) {
            gate.hold(limit).map_err(|e| gate_cause(&e))?;
        }
        Ok(())
    }

    /// How long those who wait go on waiting; `None` where nobody does.
    pub(crate) fn holds_for(&self) -> Option<Duration> {
        self.gate.as_ref().and_then(Gate::time_left)
    }

    /// How long connections wait where nothing else was said.
    pub(crate) fn hold_limit(&self) -> Duration {
        self.hold_limit
    }

    /// Lets clients in, as far as that can be done while the engine runs.
    pub(crate) async fn open(&mut self, spec: &EngineSpec, client: &Client) -> Result<(), Cause> {
        sandbox::cgroup::ensure(&self.limits(spec));
        let gate = self.gate(spec)?;
        let level = gate.level();
        gate.open().map_err(|e| gate_cause(&e))?;
        if level != Level::Steered && driver::opens_in_place(spec) && !client.listens().await.map_err(cause)? {
            client.listen(spec, true).await.map_err(cause)?;
        }
        // Last, since what an engine does by itself is not to be undone any more.
        client.lift(spec).await.map_err(cause)
    }

    /// Whether clients get in.
    pub(crate) async fn is_open(&mut self, spec: &EngineSpec, client: &Client) -> Result<bool, Cause> {
        let gate = self.gate(spec)?;
        match gate.level() {
            Level::Steered => Ok(gate.state() == Some(GateState::Open)),
            Level::Shared | Level::Own => client.listens().await.map_err(cause),
        }
    }

    /// Nobody will come behind the gate: who connects learns that.
    pub(crate) fn refuse(&mut self) {
        if let Some(gate) = &mut self.gate
            && let Err(error) = gate.refuse()
        {
            tracing::warn!(%error, "gate");
        }
    }

    /// Looks after the gate. Gives what happened there by itself, in sentences.
    pub(crate) fn tend_gate(&mut self) -> Vec<String> {
        let Some(gate) = &mut self.gate else { return Vec::new() };
        gate.look().unwrap_or_else(|error| tracing::error!(%error, "gate"));
        gate.take_notices()
    }

    /// Returns when the gate has no keeper any more; never where it needs none.
    pub(crate) async fn gate_unkept(&self) {
        match &self.gate {
            Some(gate) => gate.unkept().await,
            None => std::future::pending().await,
        }
    }

    /// The gate, for people.
    pub(crate) fn gate_seen(&self) -> Option<GateSeen> {
        self.gate.as_ref().map(|gate| GateSeen {
            level: gate.level(),
            state: gate.state().map(GateState::stance),
            why: gate.why().to_owned(),
        })
    }

    /// Waits until the engine answers the agent and has loaded its data.
    pub(crate) async fn ready(&mut self, spec: &EngineSpec) -> Result<Client, Cause> {
        let Some(process) = self.process.as_ref() else {
            return Err(Cause::new(format!("{} is not running", spec.label()), AGAIN_HINT));
        };
        let gate = &mut self.gate;
        // An engine that waits for an answer of a dead keeper says nothing, not even that.
        let tend = async {
            loop {
                let Some(gate) = gate.as_mut() else { return std::future::pending().await };
                gate.unkept().await;
                gate.look().unwrap_or_else(|error| tracing::error!(%error, "gate"));
            }
        };
        let exit = tokio::select! {
            client = Client::ready(spec, &self.paths, &self.secrets, SILENCE_LIMIT) => {
                return client.map_err(|error| self.unready(spec, error));
            }
            exit = process.exited() => exit.unwrap_or(Exit::Unknown),
            never = tend => never,
        };
        Err(self.ended_at_start(spec, exit))
    }

    /// Why an engine is not ready. Which socket does not answer, and how, is for the log.
    fn unready(&self, spec: &EngineSpec, error: Error) -> Cause {
        match error {
            Error::Late { what, within, detail } => {
                tracing::warn!(%detail, "engine is late");
                let (label, seconds) = (spec.label(), within.as_secs());
                let message =
                    format!("{label} did not {what} within {seconds} s; its last words: {}", self.last_words());
                Cause::new(message, LOG_HINT)
            }
            other => cause(other),
        }
    }

    /// A connection as the agent's own user.
    pub(crate) async fn client(&self, spec: &EngineSpec) -> Result<Client, Cause> {
        Client::connect(spec, &self.paths, &self.secrets).await.map_err(cause)
    }

    /// The same, of an engine that need not answer, for which nobody waits long.
    pub(crate) async fn client_soon(&self, spec: &EngineSpec) -> Result<Client, Cause> {
        tokio::time::timeout(SOON, self.client(spec)).await.unwrap_or_else(|_| {
            let message = format!("{} runs and does not answer within {} s", spec.label(), SOON.as_secs());
            Err(Cause::new(message, "wait until it serves, or end it: coffer instance restart"))
        })
    }

    /// Ends the engine with all that it acknowledged on disk. On failure it mostly still runs.
    pub(crate) async fn stop(&mut self, spec: &EngineSpec, client: Client) -> Result<(), Cause> {
        if let Some(process) = self.process() {
            client.stop(spec, process, STOP_LIMIT).await.map_err(|error| match error {
                Error::Ended { what, exit, .. } => {
                    let words = self.last_words();
                    Cause::new(
                        format!("{what} ended with {exit} instead of cleanly; its last words: {words}"),
                        AGAIN_HINT,
                    )
                }
                other => cause(other),
            })?;
        }
        self.process = None;
        if !ended_cleanly(&self.paths, spec) {
            // It was found running by this agent, so nobody told it how the end was.
            let message = format!("{} ended without a clean stop; its last words: {}", spec.label(), self.last_words());
            return Err(Cause::new(message, AGAIN_HINT));
        }
        Ok(())
    }

    /// Whether the engine ends by itself, cleanly as far as anybody can know. One that was told to end hangs up before it is gone;
    /// one that answers was not.
    pub(crate) async fn is_ending(&mut self, spec: &EngineSpec) -> bool {
        if self.process.is_none() {
            return false;
        }
        let answers = async {
            if !driver::greets(spec) {
                return tokio::time::sleep(ENDING).await;
            }
            while self.client(spec).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let exit = tokio::select! {
            exit = self.ended() => exit,
            () = answers => return false,
            () = tokio::time::sleep(STOP_LIMIT) => return false,
        };
        let is_clean = matches!(exit, Some(Exit::Code(0) | Exit::Unknown)) && ended_cleanly(&self.paths, spec);
        if is_clean {
            self.forget();
        }
        is_clean
    }

    /// Ends the engine without asking it. For an engine that no client has written to, or that does not end otherwise.
    pub(crate) async fn kill(&mut self) -> Result<(), Cause> {
        // What works on it must not find the next one in its place.
        sql::end_upgrade(&self.paths).await.map_err(cause)?;
        let Some(process) = self.process.as_ref() else { return Ok(()) };
        let failed = |e: std::io::Error| Cause::new(format!("the engine cannot be ended: {e}"), "");
        if process.is_alive() {
            process.signal(Signal::KILL).map_err(failed)?;
            tokio::time::timeout(KILL_LIMIT, process.exited())
                .await
                .map_err(|_| {
                    Cause::new("the engine does not end, not even when killed", "look at the host: disk or kernel")
                })?
                .map_err(failed)?;
        }
        self.process = None;
        Ok(())
    }

    /// How much data there is, as the engine's files have it.
    pub(crate) fn volume(&self, spec: &EngineSpec) -> Result<Volume, Cause> {
        let files = site::list(&self.paths.data, driver::kinds(spec)).map_err(|e| cause(e.into()))?;
        Ok(Volume { bytes: files.iter().map(|f| f.size).sum(), files: files.len() as u64 })
    }

    /// Bytes that data and pre-images take, a file with several names counted once.
    pub(crate) fn used_bytes(&self) -> u64 {
        let mut seen = HashSet::new();
        [&self.paths.data, &self.paths.pre].into_iter().map(|dir| site::used_below(dir, &mut seen)).sum()
    }

    /// The last lines that the engine wrote.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.paths.agent.join(ENGINE_LOG), self.log_from, &self.secrets)
    }

    /// Whether all that the engine that ran last has acknowledged is certain to be on the disk.
    pub(crate) fn said_farewell(&self, spec: &EngineSpec) -> bool {
        driver::said_farewell(spec, &last_line(&self.paths.agent.join(ENGINE_LOG)))
    }

    /// Forgets the engine after its end was seen.
    pub(crate) fn forget(&mut self) {
        self.process = None;
    }

    /// Returns when the engine has ended; never while there is none.
    pub(crate) async fn ended(&self) -> Option<Exit> {
        match &self.process {
            Some(process) => process.exited().await.ok(),
            None => std::future::pending().await,
        }
    }
}

/// Whether the log of the engine that ran last here ends as that of one that ended as it should.
pub(crate) fn ended_cleanly(paths: &Paths, spec: &EngineSpec) -> bool {
    driver::is_farewell(spec, &last_line(&paths.agent.join(ENGINE_LOG)))
}

/// The password of the agent's own user in the engine: nothing that had to be kept, and nothing that anybody else has.
fn agent_password(token: &str) -> SecretString {
    let hash = Sha256::new().chain_update(b"engine user coffer: ").chain_update(token).finalize();
    let mut text = String::with_capacity(64);
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    SecretString::from(text)
}

fn describe(started: &sandbox::Started) -> Vec<String> {
    let mut lines = vec![format!("isolation: {}", started.isolation)];
    if let Some(limits) = &started.limits {
        lines.push(format!("memory limit: {}", limits.memory));
        lines.push(format!("cpu limit: {}", limits.cpu));
    }
    lines
}
