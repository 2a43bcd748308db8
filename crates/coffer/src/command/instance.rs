//! `coffer instance ...`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use coffer_core::engine::Policy;
use coffer_core::stuck::Choice;
use coffer_wire::trove::account::NewDatabase;
use coffer_wire::trove::instance::{Drift, Instance, InstanceBody};
use coffer_wire::trove::operation::{Operation, PlanBody, UpgradePlan};
use coffer_wire::trove::request::{DatastoreChoice, InstanceChange, NewInstance, NewVolume, UpgradePreview};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, accounts, check, plan, print, rollback, stuck};
use crate::cli::{Create, Instance as Command, Upgrade, Wait};
use crate::failure::{Failure, Kind};
use crate::find;
use crate::table::{self, Format, List, Record};
use crate::watch::{self, End, Watch, span};

/// Runs one of the commands.
pub(crate) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => list(&session).await,
        Command::Show { instance } => show(&session, &instance).await,
        Command::Create(create) => self::create(session, create).await,
        Command::Check { instance, version } => check(&session, &instance, &version).await,
        Command::Upgrade(upgrade) => self::upgrade(session, upgrade).await,
        Command::Rollback(asked) => rollback::run(session, asked).await,
        Command::Finalize { instance, wait } => {
            let instance = find::instance_named(&session.trove, &instance).await?;
            let path = format!("/instances/{}/finalize", instance.id);
            session.trove.tell(Method::POST, &path, Some(&json!({"finalize": {}}))).await?;
            follow(session, &instance, wait).await
        }
        Command::Resume(asked) => stuck::run(session, Choice::Resume, asked).await,
        Command::Abandon(asked) => stuck::run(session, Choice::Abandon, asked).await,
        Command::Operations { instance, wait } => operations(session, &instance, wait).await,
        Command::Restart { instance, wait } => {
            let instance = find::instance_named(&session.trove, &instance).await?;
            let path = format!("/instances/{}/action", instance.id);
            session.trove.tell(Method::POST, &path, Some(&json!({"restart": {}}))).await?;
            follow(session, &instance, wait).await
        }
        Command::Delete { instances, wait } => delete(session, &instances, wait).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let columns = &["ID", "Name", "Datastore", "Datastore Version", "Status", "Flavor ID", "Size", "Region"];
    let row = |i: Instance| {
        vec![
            json!(i.id),
            json!(i.name),
            json!(i.datastore.datastore),
            json!(i.datastore.version),
            json!(i.status),
            json!(i.flavor.id),
            json!(i.volume.size),
            json!(i.region),
        ]
    };
    let rows = find::instances(&session.trove).await?.into_iter().map(row).collect();
    Ok(table::print(&List { columns, rows }.render(session.format))?)
}

async fn show(session: &Session, instance: &str) -> Result<(), Failure> {
    let instance = find::instance_named(&session.trove, instance).await?;
    Ok(table::print(&record(&instance, session.format).render(session.format))?)
}

/// The openstack client's fields, and Coffer's.
fn record(instance: &Instance, format: Format) -> Record {
    let mut fields = vec![
        ("datastore", json!(instance.datastore.datastore)),
        ("datastore_version", json!(instance.datastore.version)),
        ("flavor", json!(instance.flavor.id)),
        ("id", json!(instance.id)),
        ("name", json!(instance.name)),
        ("operating_status", json!(instance.operating_status)),
        ("public", json!(instance.access.is_public)),
        ("region", json!(instance.region)),
        ("status", json!(instance.status)),
        ("volume", json!(instance.volume.size)),
    ];
    let mut known = |name, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
    known("addresses", instance.addresses.as_ref().map(|addresses| json!(addresses)));
    known("datastore_version_number", instance.datastore.version_number.as_ref().map(|number| json!(number)));
    known("ip", instance.ip.as_ref().map(|ip| json!(ip)));
    known("tenant_id", instance.tenant_id.as_ref().map(|id| json!(id)));
    known("volume_used", instance.volume.used.map(|used| json!(used)));
    if let Some(detail) = &instance.detail {
        known("created", Some(json!(detail.created)));
        known("updated", Some(json!(detail.updated)));
        known("service_status_updated", Some(json!(detail.service_status_updated)));
        known("requested_version", detail.requested_version.as_ref().map(|version| json!(version)));
        known("recorded_version", detail.recorded_version.as_ref().map(|version| json!(version)));
        known("drift", (!detail.drift.is_empty()).then(|| drift(&detail.drift, format)));
        known(
            "silent",
            detail.silent.as_ref().map(|silent| match format {
                Format::Json => json!(silent),
                Format::Table => json!(format!("since {}: {}; hint: {}", silent.since, silent.message, silent.hint)),
            }),
        );
        known("running_version", detail.running_version.as_ref().map(|version| json!(version)));
        known("on_disk_version", detail.on_disk_version.as_ref().map(|version| json!(version)));
        known("configuration", detail.configuration.as_ref().map(|group| json!(group.id)));
        known("configuration_name", detail.configuration.as_ref().map(|group| json!(group.name)));
        known("restart_required", (!detail.restart_required.is_empty()).then(|| json!(detail.restart_required)));
        known("isolation", (!detail.isolation.is_empty()).then(|| json!(detail.isolation)));
        known(
            "rollback_to",
            detail.rollback.as_ref().and_then(|back| back.version.as_ref().map(|version| json!(version))),
        );
        known("rollback_until", detail.rollback.as_ref().map(|back| json!(back.until)));
        known("gate", detail.gate.as_ref().map(|gate| json!(gate)));
        known("fault", detail.fault.as_ref().map(|fault| json!(fault.message)));
        known("fault_date", detail.fault.as_ref().map(|fault| json!(fault.created)));
        known("fault_details", detail.fault.as_ref().and_then(|fault| fault.details.as_ref().map(|text| json!(text))));
        let progress =
            |p: &coffer_wire::trove::instance::Progress| format!("{}: {} ({} of {})", p.kind, p.step, p.at, p.of);
        known("operation", detail.operation.as_ref().map(|operation| json!(progress(operation))));
    }
    Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// For people a sentence each.
fn drift(all: &[Drift], format: Format) -> Value {
    let sentence =
        |d: &Drift| format!("{}: {}, instead of {}; to mend it: {}", d.object, d.found, d.expected, d.remedy);
    match format {
        Format::Json => json!(all),
        Format::Table => json!(all.iter().map(sentence).collect::<Vec<_>>()),
    }
}

async fn create(session: Session, create: Create) -> Result<(), Failure> {
    let flavor = find::flavor_named(&session.trove, &create.flavor).await?;
    let settings: BTreeMap<_, _> = create.settings.iter().cloned().collect();
    if settings.len() < create.settings.len() {
        return Err(Failure::new(Kind::Usage, "a setting is given twice", "give each --set another NAME"));
    }
    let (users, made) = accounts::first_users(&create.users, &create.databases)?;
    let hint = choices(create.datastore.as_deref());
    let new = NewInstance {
        name: create.name,
        flavor: Some(flavor.str_id),
        volume: Some(NewVolume { size: create.size }),
        datastore: DatastoreChoice {
            datastore: create.datastore,
            version: create.datastore_version,
            version_number: None,
        },
        configuration: match &create.configuration {
            Some(group) => Some(find::group_named(&session.trove, group).await?.id),
            None => None,
        },
        settings,
        databases: create.databases.into_iter().map(new_database).collect(),
        users,
        unsupported: Vec::new(),
    };
    let asked = session.trove.post("/instances", &json!({"instance": new})).await;
    let InstanceBody { mut instance } = asked.map_err(|failure: Failure| failure.or_hint(&hint))?;
    let password = instance.detail.as_mut().and_then(|detail| detail.password.take()).map(|password| password.0);
    // Before anything else can fail: it cannot be had again.
    if let (Some(password), Format::Table) = (&password, session.format) {
        let of_users = made.iter().map(|(user, password)| format!("password of {user}: {password}\n"));
        let of_users: String = of_users.collect();
        table::print(&format!("password: {password}\n{of_users}It is shown this once only; keep it.\n"))?;
    }
    let Session { cloud, trove, format } = session;
    let mut outcome = Ok(());
    if create.wait.wait {
        let watch = Watch { cloud: &cloud, instance: &instance.id, name: &instance.name, timeout: create.wait.timeout };
        let (again, end) = watch.newest(trove).await;
        outcome = end.map(drop);
        if let Ok(now) = find::instance(&again, &instance.id).await {
            instance = now;
        }
    }
    let mut record = record(&instance, format);
    if let (Some(password), Format::Json) = (password, format) {
        record.0.push(("password".to_owned(), json!(password)));
        if !made.is_empty() {
            record.0.push(("user_passwords".to_owned(), json!(made)));
        }
    }
    table::print(&record.render(format))?;
    outcome
}

fn new_database(name: String) -> NewDatabase {
    NewDatabase { name, character_set: None, collate: None }
}

async fn upgrade(session: Session, upgrade: Upgrade) -> Result<(), Failure> {
    let instance = find::instance_named(&session.trove, &upgrade.instance).await?;
    if upgrade.dry_run {
        return preview(&session, &instance, upgrade).await;
    }
    let defaults = policy(&upgrade);
    let change = InstanceChange { datastore_version: Some(upgrade.version), defaults, ..InstanceChange::default() };
    let path = format!("/instances/{}", instance.id);
    let asked = session.trove.tell(Method::PATCH, &path, Some(&json!({"instance": change}))).await;
    asked.map_err(|failure| failure.or_hint(&choices(Some(&instance.datastore.datastore))))?;
    follow(session, &instance, upgrade.wait).await
}

/// What is said about defaults; nothing where it is what holds anyway, so that any server of Trove's takes it.
fn policy(upgrade: &Upgrade) -> Option<Policy> {
    upgrade.adopt_defaults.then_some(Policy::Adopt)
}

async fn preview(session: &Session, instance: &Instance, upgrade: Upgrade) -> Result<(), Failure> {
    let plan = planned(session, instance, &upgrade.version, policy(&upgrade)).await?;
    print(session.format, &plan, || plan::render(&instance.name, &plan))?;
    judged(instance, &upgrade.version, &plan)
}

async fn check(session: &Session, instance: &str, version: &str) -> Result<(), Failure> {
    let instance = find::instance_named(&session.trove, instance).await?;
    let plan = planned(session, &instance, version, None).await?;
    print(session.format, &plan.findings, || check::render(&instance.name, version, &plan))?;
    judged(&instance, version, &plan)
}

/// What an upgrade would do and what speaks against it, without doing it.
async fn planned(
    session: &Session,
    instance: &Instance,
    version: &str,
    defaults: Option<Policy>,
) -> Result<UpgradePlan, Failure> {
    let path = format!("/instances/{}/upgrade-preview", instance.id);
    let body = json!({"upgrade": UpgradePreview { defaults, datastore_version: version.to_owned() }});
    let asked = session.trove.post(&path, &body).await;
    let PlanBody { plan } = asked.map_err(|failure| failure.or_hint(&choices(Some(&instance.datastore.datastore))))?;
    Ok(plan)
}

/// A failure where the upgrade would be refused.
fn judged(instance: &Instance, version: &str, plan: &UpgradePlan) -> Result<(), Failure> {
    if check::blocks(plan) {
        return Err(Failure::new(
            Kind::Refused,
            "this upgrade would be refused, for the errors among the findings",
            format!("do what they say, then: coffer instance check {} {version}", instance.name),
        ));
    }
    Ok(())
}

/// How to see which versions there are to choose from.
fn choices(datastore: Option<&str>) -> String {
    match datastore {
        Some(datastore) => format!("coffer datastore version list {datastore}"),
        None => "coffer datastore list".to_owned(),
    }
}

async fn delete(session: Session, instances: &[String], wait: Wait) -> Result<(), Failure> {
    // All names are looked up before anything is deleted, so that a mistyped one deletes nothing.
    let mut found = Vec::new();
    for instance in instances {
        found.push(find::instance_named(&session.trove, instance).await?);
    }
    for instance in &found {
        session.trove.tell(Method::DELETE, &format!("/instances/{}", instance.id), None).await?;
    }
    let Session { cloud, mut trove, format } = session;
    for instance in &found {
        if wait.wait {
            let watch = Watch { cloud: &cloud, instance: &instance.id, name: &instance.name, timeout: wait.timeout };
            let (again, end) = watch.newest(trove).await;
            trove = again;
            end?;
        }
    }
    let ids: Vec<_> = found.iter().map(|instance| json!({"id": instance.id, "name": instance.name})).collect();
    let end = if wait.wait { "is deleted" } else { "will be deleted" };
    print(format, &ids, || found.iter().fold(String::new(), |text, i| text + &format!("{} ({}) {end}\n", i.name, i.id)))
}

/// What follows an accepted request: at once the word that it was, or the end of the operation.
pub(super) async fn follow(session: Session, instance: &Instance, wait: Wait) -> Result<(), Failure> {
    let Session { cloud, trove, format } = session;
    if !wait.wait {
        let newest = find::operations(&trove, &instance.id).await?.into_iter().next();
        let kind = newest.as_ref().map_or("operation", |operation| operation.kind.as_str());
        return print(format, &newest, || {
            format!(
                "{kind} of {} has begun; to see it: coffer instance operations {} --wait\n",
                instance.name, instance.id
            )
        });
    }
    let watch = Watch { cloud: &cloud, instance: &instance.id, name: &instance.name, timeout: wait.timeout };
    let (_, end) = watch.newest(trove).await;
    match end? {
        End::Gone => print(format, &Value::Null, || format!("{} is gone\n", instance.name)),
        End::Done(operation) => print(format, &operation, || summary(&instance.name, &operation)),
    }
}

fn summary(name: &str, operation: &Operation) -> String {
    let what = match (&operation.kind[..], &operation.to) {
        ("upgrade" | "rollback", Some(to)) => format!("{name} runs {to}"),
        (kind, _) => format!("{kind} of {name} is done"),
    };
    let group = operation.findings.iter().find(|finding| finding.id == "group.migrated");
    let group = group.map(|finding| format!("\n{}: {}", finding.object, finding.message)).unwrap_or_default();
    let gap = operation.gap_ms.map(|gap| format!("; clients could not write for {}", span(gap))).unwrap_or_default();
    let seen = operation.clients.map(|clients| format!("; {}", watch::clients(&clients))).unwrap_or_default();
    format!("{what}{gap}{seen}{group}\n")
}

async fn operations(session: Session, instance: &str, wait: Wait) -> Result<(), Failure> {
    let instance = find::instance_named(&session.trove, instance).await?;
    if wait.wait {
        return follow(session, &instance, wait).await;
    }
    let operations = find::operations(&session.trove, &instance.id).await?;
    print(session.format, &operations, || operations.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

/// One operation as people read it.
fn describe(operation: &Operation) -> String {
    let phase = match operation.phase.as_str() {
        "forward" => "running",
        "backward" => "being undone",
        "undone" => "failed and undone",
        "abandoned" => "given up half way",
        other => other,
    };
    let mut text = format!("{}{}: {phase}\n", operation.kind, watch::versions(operation));
    let _ = writeln!(text, "  id {}, began {}, last change {}", operation.id, operation.created, operation.updated);
    if let Some(gap) = operation.gap_ms {
        let _ = writeln!(text, "  clients could not write for {}", span(gap));
    }
    if let Some(clients) = &operation.clients {
        let _ = writeln!(text, "  {}", watch::clients(clients));
    }
    if let Some(cause) = &operation.cause {
        let _ = writeln!(text, "  cause: {}", cause.message);
        if !cause.hint.is_empty() {
            let _ = writeln!(text, "  hint: {}", cause.hint);
        }
    }
    for note in &operation.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    for finding in &operation.findings {
        let _ = writeln!(text, "  {}", plan::finding(finding));
    }
    for step in &operation.steps {
        let _ = writeln!(text, "  {}{}", step.begun, watch::line(step));
    }
    text
}

#[cfg(test)]
mod tests {
    use coffer_wire::trove::operation::Operation;
    use serde_json::{Value, json};

    use super::{describe, summary};

    fn upgrade(clients: Value) -> Operation {
        let mut operation = json!({"id": "o", "kind": "upgrade", "phase": "done", "from": "redis 7.0.15",
            "to": "redis 8.0.2", "created": "2026-11-22T10:39:36", "updated": "2026-11-22T10:39:36", "gap_ms": 42.4,
            "steps": [], "findings": [], "cause": null});
        if !clients.is_null() {
            operation["clients"] = clients;
        }
        serde_json::from_value(operation).expect("an operation")
    }

    #[test]
    fn what_clients_saw_is_told_beside_the_gap() {
        let counts = json!({"attempts": 412, "refused": 0, "reset": 1, "wrong": 2, "longest_wait_ms": 38.2});
        let operation = upgrade(counts);
        let seen = "clients at its address: 412 connections, 0 refused, 1 reset, 2 wrong answers, longest wait 38 ms";
        assert_eq!(
            summary("a", &operation),
            format!("a runs redis 8.0.2; clients could not write for 42 ms; {seen}\n")
        );
        let described = describe(&operation);
        assert!(described.contains(&format!("\n  clients could not write for 42 ms\n  {seen}\n")), "{described}");
    }

    #[test]
    fn where_nobody_counted_nothing_is_told_of_clients() {
        let operation = upgrade(Value::Null);
        assert_eq!(summary("a", &operation), "a runs redis 8.0.2; clients could not write for 42 ms\n");
        assert!(!describe(&operation).contains("at its address"));
    }
}
