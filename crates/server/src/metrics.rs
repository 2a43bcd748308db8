//! Figures for Prometheus: what was asked and how long it took, how operations ended, how long clients could not write.
//!
//! No figure names a tenant, an instance or a user, so whoever may read them learns nothing of anybody.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use axum::extract::MatchedPath;
use coffer_core::gate::{Level, Stance};
use coffer_core::instance::{Kind, Status};
use coffer_core::task::ClientView;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The content type of what [`Metrics::encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All figures of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Histogram, fn() -> Histogram>,
    operations: Family<Ended, Counter>,
    gaps: Family<Gap, Histogram, fn() -> Histogram>,
    probe_connections: Family<Ended, Counter>,
    instances: Family<InStatus, Gauge>,
    gates: Family<OfLevel, Gauge>,
    engine_restarts: Counter,
    silent_agents: Gauge,
    crashing_engines: Gauge,
    drift: Family<OfDrift, Gauge>,
}

/// How an operation ended, as far as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Wholly new.
    Done,
    /// Wholly old.
    Undone,
    /// It waits for a person.
    Stuck,
    /// A person gave it up half way.
    Abandoned,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
            Self::Abandoned => "abandoned",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: Text,
    method: Text,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: Text,
    end: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gap {
    kind: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    level: Text,
    state: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDrift {
    /// One of the few that agents and this server know.
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InStatus {
    status: Text,
}

/// A label's value that costs no allocation: one of a fixed set, or a route.
#[derive(Clone, Debug)]
enum Text {
    Fixed(&'static str),
    Route(MatchedPath),
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Route(route) => route.as_str(),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

fn request_buckets() -> Histogram {
    Histogram::new([0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0])
}

fn gap_buckets() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("coffer");
        let requests = Family::new_with_constructor(request_buckets as fn() -> Histogram);
        let operations = Family::default();
        let gaps = Family::new_with_constructor(gap_buckets as fn() -> Histogram);
        let probe_connections = Family::default();
        let instances = Family::default();
        let gates = Family::default();
        let engine_restarts = Counter::default();
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's arrival to its answer",
            Unit::Seconds,
            requests.clone(),
        );
        registry.register("operations", "Operations that ended, or that wait for a person", operations.clone());
        registry.register_with_unit("gap", "How long a client could not write", Unit::Seconds, gaps.clone());
        registry.register(
            "probe_connections",
            "Connections that were tried at instances' own addresses while their engines were changed",
            probe_connections.clone(),
        );
        registry.register("instances", "Instances by what users see as their status", instances.clone());
        registry.register(
            "gates",
            "Gates of instances by how far they go and what becomes of a connection",
            gates.clone(),
        );
        registry.register(
            "engine_restarts",
            "Engines that ended by themselves and were started again",
            engine_restarts.clone(),
        );
        let (silent_agents, crashing_engines, drift) = (Gauge::default(), Gauge::default(), Family::default());
        registry.register("silent_agents", "Agents that have said nothing for too long", silent_agents.clone());
        registry.register(
            "crashing_engines",
            "Engines that end by themselves again and again",
            crashing_engines.clone(),
        );
        registry.register("drift", "What is otherwise than recorded, by what it is", drift.clone());
        Self {
            registry,
            requests,
            operations,
            gaps,
            probe_connections,
            instances,
            gates,
            engine_restarts,
            silent_agents,
            crashing_engines,
            drift,
        }
    }
}

impl Metrics {
    /// A request was answered. Without a route where there is none for it, so that nobody can make up new ones.
    pub fn request_answered(&self, route: Option<MatchedPath>, method: &http::Method, code: u16, took: Duration) {
        const METHODS: [http::Method; 7] = [
            http::Method::GET,
            http::Method::POST,
            http::Method::PATCH,
            http::Method::PUT,
            http::Method::DELETE,
            http::Method::HEAD,
            http::Method::OPTIONS,
        ];
        const NAMES: [&str; 7] = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"];
        let method = METHODS.iter().zip(NAMES).find(|(m, _)| *m == method).map_or("other", |(_, name)| name);
        let route = route.map_or(Text::Fixed("none"), Text::Route);
        let labels = Request { route, method: Text::Fixed(method), code };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An operation ended, or waits for a person.
    pub fn operation_ended(&self, kind: Kind, end: End) {
        self.operations.get_or_create(&Ended { kind: Text::Fixed(kind.name()), end: Text::Fixed(end.name()) }).inc();
    }

    /// A client could not write for so long.
    pub fn gap_measured(&self, kind: Kind, gap: Duration) {
        self.gaps.get_or_create(&Gap { kind: Text::Fixed(kind.name()) }).observe(gap.as_secs_f64());
    }

    /// Clients saw this while an engine was changed.
    pub fn clients_seen(&self, kind: Kind, clients: &ClientView) {
        let counts = [
            ("answered", clients.answered()),
            ("refused", clients.refused),
            ("reset", clients.reset),
            ("wrong", clients.wrong),
        ];
        for (end, count) in counts {
            let labels = Ended { kind: Text::Fixed(kind.name()), end: Text::Fixed(end) };
            self.probe_connections.get_or_create(&labels).inc_by(count);
        }
    }

    /// So many engines ended by themselves and were started again.
    pub fn engines_restarted(&self, count: u64) {
        self.engine_restarts.inc_by(count);
    }

    /// What agents say that is not as it should be: of so many engines that end again and again, and what drifted, by its id. And
    /// so many say nothing.
    pub fn set_troubles(&self, silent: u64, crashing: u64, drift: impl IntoIterator<Item = (String, u64)>) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.silent_agents.set(gauge(silent));
        self.crashing_engines.set(gauge(crashing));
        self.drift.clear();
        for (id, count) in drift {
            self.drift.get_or_create(&OfDrift { id }).set(gauge(count));
        }
    }

    /// So many instances have each status. A status that is not named has none.
    pub fn set_instances(&self, counts: impl IntoIterator<Item = (Status, u64)>) {
        self.instances.clear();
        for (status, count) in counts {
            let labels = InStatus { status: Text::Fixed(status.name()) };
            self.instances.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// So many gates are of each level and in each state; those without a state are the engine's own port.
    pub fn set_gates(&self, counts: impl IntoIterator<Item = ((Level, Option<Stance>), u64)>) {
        self.gates.clear();
        for ((level, state), count) in counts {
            let labels =
                OfLevel { level: Text::Fixed(level.name()), state: Text::Fixed(state.map_or("none", Stance::name)) };
            self.gates.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All figures as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coffer_core::gate::{Level, Stance};
    use coffer_core::instance::{Kind, Status};
    use coffer_core::task::ClientView;

    use super::{End, Metrics};

    #[test]
    fn figures_have_the_names_that_dashboards_use() {
        let metrics = Metrics::default();
        metrics.request_answered(None, &http::Method::GET, 404, Duration::from_millis(2));
        metrics.operation_ended(Kind::Upgrade, End::Undone);
        metrics.gap_measured(Kind::Upgrade, Duration::from_millis(80));
        metrics.clients_seen(
            Kind::Upgrade,
            &ClientView { attempts: 20, refused: 2, reset: 1, wrong: 0, longest_wait_us: 5 },
        );
        metrics.engines_restarted(1);
        metrics.set_troubles(2, 1, [("config.file".to_owned(), 3)]);
        metrics.set_instances([(Status::Active, 3), (Status::Error, 1)]);
        metrics.set_instances([(Status::Active, 2)]);
        metrics.set_gates([((Level::Steered, Some(Stance::Open)), 2), ((Level::Own, None), 1)]);
        let text = metrics.encode().expect("text");
        for line in [
            r#"coffer_http_request_duration_seconds_count{route="none",method="GET",code="404"} 1"#,
            r#"coffer_operations_total{kind="upgrade",end="undone"} 1"#,
            r#"coffer_gap_seconds_bucket{le="0.1",kind="upgrade"} 1"#,
            r#"coffer_probe_connections_total{kind="upgrade",end="answered"} 17"#,
            r#"coffer_probe_connections_total{kind="upgrade",end="refused"} 2"#,
            r#"coffer_probe_connections_total{kind="upgrade",end="reset"} 1"#,
            r#"coffer_probe_connections_total{kind="upgrade",end="wrong"} 0"#,
            "coffer_engine_restarts_total 1",
            "coffer_silent_agents 2",
            "coffer_crashing_engines 1",
            r#"coffer_drift{id="config.file"} 3"#,
            r#"coffer_instances{status="ACTIVE"} 2"#,
            r#"coffer_gates{level="steered",state="open"} 2"#,
            r#"coffer_gates{level="own",state="none"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("ERROR"), "{text}");
    }
}
