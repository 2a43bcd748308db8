//! The server by itself: how fast it starts, what its requests cost, and how much memory it takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Memory, memory};
use crate::report::{Aim, Bound, Compared, Figure, Row};
use crate::requests::{Cost, Repeat, measure as measure_requests};
use crate::server::{Server, Session};
use crate::{Bench, estate};

/// Trove 26 with `MySQL` on such a machine, from the issue that this benchmark belongs to.
const TROVE: &str = "Trove 26";
const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// How many upgrades are asked for at once.
const UPGRADES: usize = 300;
const FEW: u32 = 20;

/// A kind of request, and what is known of it elsewhere.
struct Kind {
    name: &'static str,
    label: String,
    trove_ms: Option<f64>,
    aim_ms: Option<f64>,
}

/// Measures all of it.
pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let template = Template::make(bench)?;
    let mut rows = template.measure_starts(bench)?;
    let few = template.with_instances(bench, "few", FEW)?;
    let many = template.with_instances(bench, "many", bench.instances)?;
    rows.extend(many.measure_memory(bench)?);
    let many_label = format!("list of {FEW} out of {}", bench.instances);
    let kind = |name, label: &str, trove_ms, aim_ms| Kind { name, label: label.to_owned(), trove_ms, aim_ms };
    let reads = [
        (kind("root", "GET /", Some(0.6), None), &few),
        (kind("list_few", &format!("list of {FEW} out of {FEW}"), None, Some(0.3)), &few),
        (kind("list_many", &many_label, Some(480.0), Some(0.3)), &many),
        (kind("show", "show", Some(48.0), Some(0.3)), &many),
        (kind("upgrade_refused", "PATCH upgrade, refused (400, a downgrade)", None, None), &many),
    ];
    for (kind, estate) in reads {
        let (server, session) = estate.serve(bench)?;
        let (requests, expected) = match kind.name {
            "root" => (vec![crate::http::request("GET", "/", None, "")], 200),
            "show" => (estate.each(&session, "GET", ""), 200),
            "upgrade_refused" => (estate.each(&session, "PATCH", &upgrade_to("6.0.16")), 400),
            _ => (vec![session.request("GET", &format!("/instances?limit={FEW}"), "")], 200),
        };
        for connections in CONNECTIONS {
            bench.say(&format!("{}, {connections} at once", kind.label));
            let span = Duration::from_millis(if bench.quick { 600 } else { 2000 });
            let cost = measure_requests(&server, &requests, connections, Repeat::For(span), expected)?;
            rows.push(kind.row(connections, cost));
        }
        server.stop()?;
    }
    let accepted = kind("upgrade", "PATCH upgrade, accepted (202)", Some(55.0), None);
    for connections in CONNECTIONS {
        bench.say(&format!("{}, {connections} at once", accepted.label));
        // Accepted upgrades stay open here, without agents. Each measurement begins with none.
        let fresh = many.copy(bench, "patched")?;
        let (server, session) = fresh.serve(bench)?;
        let mut requests = fresh.each(&session, "PATCH", &upgrade_to(bench.engines.new_version));
        requests.truncate(UPGRADES);
        let cost = measure_requests(&server, &requests, connections, Repeat::Once, 202)?;
        rows.push(accepted.row(connections, cost));
        server.stop()?;
    }
    Ok(rows)
}

fn upgrade_to(version: &str) -> String {
    serde_json::json!({"instance": {"datastore_version": version}}).to_string()
}

impl Kind {
    fn row(&self, connections: usize, cost: Cost) -> Row {
        let figure = |name, label, value, unit| Figure { name, label, value, unit };
        Row {
            name: format!("request.{}.{connections}", self.name),
            label: format!("{}, {connections} at once", self.label),
            figures: vec![
                figure("cpu_ms", "CPU", cost.cpu_ms, " ms"),
                figure("p50_ms", "p50", cost.p50_ms, " ms"),
                figure("p99_ms", "p99", cost.p99_ms, " ms"),
                figure("per_second", "", cost.per_second, "/s"),
            ],
            compared: self.trove_ms.map(|value| Compared { with: TROVE, value }),
            aim: self.aim_ms.map(|limit| Aim { text: format!("below {limit} ms CPU"), bound: Bound::AtMost(limit) }),
        }
    }
}

/// A data directory whose server is not running.
struct Template {
    data: PathBuf,
    /// The instances in it.
    ids: Vec<String>,
    project: String,
    first_start: Duration,
}

impl Template {
    /// The data directory of a server that was started once.
    fn make(bench: &Bench) -> Result<Self> {
        bench.say("first start of the server");
        let data = new_data(bench, "first")?;
        let (server, first_start) = Server::start(&bench.program, &data)?;
        let project = server.login(&data)?.project().to_owned();
        server.stop()?;
        Ok(Self { data, ids: Vec::new(), project, first_start })
    }

    /// As this, with so many instances.
    fn with_instances(&self, bench: &Bench, name: &str, count: u32) -> Result<Self> {
        bench.say(&format!("writing {count} instances"));
        let mut copy = self.copy(bench, name)?;
        copy.ids = estate::fill(&copy.data, &copy.project, bench.engines.old_version, count)?;
        Ok(copy)
    }

    /// As this, in a directory of its own.
    fn copy(&self, bench: &Bench, name: &str) -> Result<Self> {
        let data = new_data(bench, name)?;
        for entry in fs_err::read_dir(&self.data)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs_err::copy(entry.path(), data.join(entry.file_name()))?;
            }
        }
        Ok(Self { data, ids: self.ids.clone(), project: self.project.clone(), first_start: self.first_start })
    }

    fn serve(&self, bench: &Bench) -> Result<(Server, Session)> {
        let (server, _) = Server::start(&bench.program, &self.data)?;
        let session = server.login(&self.data)?;
        Ok((server, session))
    }

    /// The same request for each of the instances.
    fn each(&self, session: &Session, method: &str, body: &str) -> Vec<Vec<u8>> {
        self.ids.iter().map(|id| session.request(method, &format!("/instances/{id}"), body)).collect()
    }

    fn measure_starts(&self, bench: &Bench) -> Result<Vec<Row>> {
        bench.say("later starts of the server");
        let mut later = Vec::new();
        for _ in 0..if bench.quick { 5 } else { 15 } {
            let (server, took) = Server::start(&bench.program, &self.data)?;
            server.stop()?;
            later.push(took);
        }
        later.sort_unstable();
        let row = |name: &str, label: &str, took: Duration| Row {
            name: format!("start.{name}"),
            label: format!("{label} to the first 200"),
            figures: vec![Figure { name: "ms", label: "", value: took.as_secs_f64() * 1000.0, unit: " ms" }],
            compared: Some(Compared { with: TROVE, value: 2400.0 }),
            aim: Some(Aim { text: "below 100 ms".to_owned(), bound: Bound::AtMost(100.0) }),
        };
        Ok(vec![row("first", "very first start", self.first_start), row("later", "start", later[later.len() / 2])])
    }

    fn measure_memory(&self, bench: &Bench) -> Result<Vec<Row>> {
        bench.say("memory of the server");
        let (server, session) = self.serve(bench)?;
        let idle = memory(server.pid())?;
        let mut requests = self.each(&session, "GET", "");
        requests.truncate(1000);
        measure_requests(&server, &requests, 8, Repeat::Once, 200)?;
        let after = memory(server.pid())?;
        server.stop()?;
        let of = format!("server of {} instances", self.ids.len());
        Ok(vec![
            memory_row("server_idle", &format!("{of}, idle"), idle, Some(700.0), 20.0),
            memory_row("server_after_1000", &format!("{of}, after 1000 requests"), after, Some(700.0), 20.0),
        ])
    }
}

/// A row about the memory of a process.
pub(crate) fn memory_row(name: &str, label: &str, memory: Memory, trove: Option<f64>, limit: f64) -> Row {
    let figure = |name, label, value| Figure { name, label, value, unit: " MB" };
    let mut figures = vec![figure("rss_mb", "resident", memory.rss)];
    figures.extend(memory.pss.map(|pss| figure("pss_mb", "its part", pss)));
    Row {
        name: format!("memory.{name}"),
        label: format!("memory: {label}"),
        figures,
        compared: trove.map(|value| Compared { with: TROVE, value }),
        aim: Some(Aim { text: format!("below {limit} MB resident"), bound: Bound::AtMost(limit) }),
    }
}

/// An empty data directory that uses the engine images of this benchmark's store.
pub(crate) fn new_data(bench: &Bench, name: &str) -> Result<PathBuf> {
    let data: &Path = &bench.dir.join(name);
    if data.exists() {
        fs_err::remove_dir_all(data)?;
    }
    fs_err::create_dir(data)?;
    fs_err::os::unix::fs::symlink(&bench.store, data.join("engines"))?;
    Ok(data.to_owned())
}
