//! `coffer configuration ...`

use std::collections::BTreeMap;

use coffer_wire::trove::configuration::{Configuration, ConfigurationBody, GroupInstance, Parameter, ParametersBody};
use coffer_wire::trove::instance::Instance;
use coffer_wire::trove::link::encoded;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, print};
use crate::cli::configuration::{Configuration as Command, Create};
use crate::failure::{Failure, Kind};
use crate::find;
use crate::table::{self, List, Record};

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => list(session).await,
        Command::Show { group } => show(session, &find::group_named(&session.trove, &group).await?),
        Command::Create(create) => self::create(session, create).await,
        Command::Set { group, values } => {
            let values = once(values)?.into_iter().map(|(name, value)| (name, json!(value))).collect();
            set(session, &group, values).await
        }
        Command::Unset { group, names } => {
            let found = find::group_named(&session.trove, &group).await?;
            let has = |name: &str| found.values.as_ref().is_some_and(|values| values.contains_key(name));
            if let Some(name) = names.iter().find(|name| !has(name)) {
                let message = format!("configuration group {} has no value for {name}", found.name);
                return Err(Failure::new(Kind::NotFound, message, format!("coffer configuration show {group}")));
            }
            set(session, &group, names.into_iter().map(|name| (name, Value::Null)).collect()).await
        }
        Command::Delete { groups } => delete(session, &groups).await,
        Command::Instances { group } => instances(session, &group).await,
        Command::Attach { instance, group } => {
            let group = find::group_named(&session.trove, &group).await?;
            attach(session, &instance, Some(&group)).await
        }
        Command::Detach { instance } => attach(session, &instance, None).await,
        Command::Parameters { datastore, version, parameter } => {
            parameters(session, &datastore, &version, parameter.as_deref()).await
        }
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    // The openstack client's columns.
    let columns =
        &["ID", "Name", "Description", "Datastore Name", "Datastore Version Name", "Datastore Version Number"];
    let row = |c: Configuration| {
        vec![
            json!(c.id),
            json!(c.name),
            json!(c.description),
            json!(c.datastore_name),
            json!(c.datastore_version_name),
            json!(c.datastore_version_number),
        ]
    };
    let rows = find::groups(&session.trove).await?.into_iter().map(row).collect();
    Ok(table::print(&List { columns, rows }.render(session.format))?)
}

fn show(session: &Session, group: &Configuration) -> Result<(), Failure> {
    let fields = [
        ("id", json!(group.id)),
        ("name", json!(group.name)),
        ("description", json!(group.description)),
        ("values", json!(group.values)),
        ("created", json!(group.created)),
        ("updated", json!(group.updated)),
        ("instance_count", json!(group.instance_count)),
        ("datastore_name", json!(group.datastore_name)),
        ("datastore_version_name", json!(group.datastore_version_name)),
        ("datastore_version_number", json!(group.datastore_version_number)),
    ];
    let record = Record(fields.map(|(name, value)| (name.to_owned(), value)).into());
    Ok(table::print(&record.render(session.format))?)
}

async fn create(session: &Session, create: Create) -> Result<(), Failure> {
    let Create { name, datastore, datastore_version, description, values } = create;
    let hint = parameters_of(datastore.as_deref(), datastore_version.as_deref());
    let mut body = json!({"name": name, "values": once(values)?, "datastore": {}});
    for (key, value) in [("type", datastore), ("version", datastore_version)] {
        if let Some(value) = value {
            body["datastore"][key] = json!(value);
        }
    }
    if let Some(description) = description {
        body["description"] = json!(description);
    }
    let asked = session.trove.post("/configurations", &json!({"configuration": body})).await;
    let ConfigurationBody { configuration } = asked.map_err(|failure: Failure| failure.or_hint(&hint))?;
    show(session, &configuration)
}

/// Where to see which settings there are.
fn parameters_of(datastore: Option<&str>, version: Option<&str>) -> String {
    match (datastore, version) {
        (Some(datastore), Some(version)) => format!("coffer configuration parameters {datastore} {version}"),
        (Some(datastore), None) => format!("coffer datastore version list {datastore}"),
        (None, _) => "coffer datastore list".to_owned(),
    }
}

fn once(values: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let count = values.len();
    let values: BTreeMap<_, _> = values.into_iter().collect();
    if values.len() < count {
        return Err(Failure::new(Kind::Usage, "a setting is given twice", "give each NAME once"));
    }
    Ok(values)
}

async fn set(session: &Session, group: &str, values: serde_json::Map<String, Value>) -> Result<(), Failure> {
    let group = find::group_named(&session.trove, group).await?;
    let path = format!("/configurations/{}", group.id);
    let hint = parameters_of(Some(&group.datastore_name), Some(&group.datastore_version_name));
    let asked = session.trove.tell(Method::PATCH, &path, Some(&json!({"configuration": {"values": values}}))).await;
    asked.map_err(|failure| failure.or_hint(&hint))?;
    // What waits for a restart is a matter of each instance.
    let mut waiting = Vec::new();
    for instance in find::group_instances(&session.trove, &group.id).await? {
        let instance = find::instance(&session.trove, &instance.id).await?;
        waiting.extend(waits(&instance));
    }
    let group = find::group(&session.trove, &group.id).await?;
    print(session.format, &group, || {
        let count = group.instance_count.unwrap_or(0);
        let first = format!("{} is changed; instances that have it: {count}\n", group.name);
        waiting.iter().fold(first, |text, line| text + line)
    })
}

async fn delete(session: &Session, groups: &[String]) -> Result<(), Failure> {
    // All names are looked up before anything is deleted, so that a mistyped one deletes nothing.
    let mut found = Vec::new();
    for group in groups {
        found.push(find::group_named(&session.trove, group).await?);
    }
    for group in &found {
        let asked = session.trove.tell(Method::DELETE, &format!("/configurations/{}", group.id), None).await;
        asked.map_err(|failure| failure.or_hint(&format!("coffer configuration instances {}", group.name)))?;
    }
    let ids: Vec<_> = found.iter().map(|group| json!({"id": group.id, "name": group.name})).collect();
    print(session.format, &ids, || {
        found.iter().fold(String::new(), |text, group| text + &format!("{} ({}) is deleted\n", group.name, group.id))
    })
}

async fn instances(session: &Session, group: &str) -> Result<(), Failure> {
    let group = find::group_named(&session.trove, group).await?;
    let row = |i: GroupInstance| vec![json!(i.id), json!(i.name)];
    let rows = find::group_instances(&session.trove, &group.id).await?.into_iter().map(row).collect();
    Ok(table::print(&List { columns: &["ID", "Name"], rows }.render(session.format))?)
}

async fn attach(session: &Session, instance: &str, group: Option<&Configuration>) -> Result<(), Failure> {
    let found = find::instance_named(&session.trove, instance).await?;
    let path = format!("/instances/{}", found.id);
    let body = json!({"instance": {"configuration": group.map(|group| &group.id)}});
    let asked = session.trove.tell(Method::PUT, &path, Some(&body)).await;
    asked.map_err(|failure| failure.or_hint(&format!("coffer instance show {}", found.name)))?;
    let now = find::instance(&session.trove, &found.id).await?;
    let what = group.map_or_else(|| "no configuration group any more".to_owned(), |group| group.name.clone());
    print(session.format, &now, || format!("{} has {what}\n", now.name) + &waits(&now).unwrap_or_default())
}

/// What an instance needs a restart for, if it does.
fn waits(instance: &Instance) -> Option<String> {
    let names = instance.detail.as_ref().map(|detail| detail.restart_required.join(", ")).unwrap_or_default();
    (!names.is_empty()).then(|| {
        let name = &instance.name;
        format!("{name} needs a restart for {names}: coffer instance restart {name}\n")
    })
}

async fn parameters(session: &Session, datastore: &str, version: &str, parameter: Option<&str>) -> Result<(), Failure> {
    let path = format!("/datastores/{}/versions/{}/parameters", encoded(datastore), encoded(version));
    let unknown = |failure: Failure| match failure.kind {
        Kind::NotFound | Kind::Refused => {
            Failure { hint: format!("coffer datastore version list {datastore}"), ..failure }
        }
        _ => failure,
    };
    let body: ParametersBody = session.trove.get(&path).await.map_err(unknown)?;
    let chosen = |p: &Parameter| parameter.is_none_or(|name| p.name == name);
    let row = |p: Parameter| {
        let limit = |limit: Option<Value>| limit.unwrap_or_else(|| json!("-"));
        let (min, max) = (limit(p.min), limit(p.max));
        vec![json!(p.name), json!(p.kind), min, max, json!(p.default), json!(p.restart_required)]
    };
    let rows: Vec<_> = body.parameters.into_iter().filter(chosen).map(row).collect();
    if let (Some(name), true) = (parameter, rows.is_empty()) {
        let message = format!("{datastore} {version} has no setting '{name}' that can be chosen");
        return Err(Failure::new(
            Kind::NotFound,
            message,
            format!("coffer configuration parameters {datastore} {version}"),
        ));
    }
    let columns = &["Name", "Type", "Min Size", "Max Size", "Default", "Restart Required"];
    Ok(table::print(&List { columns, rows }.render(session.format))?)
}
