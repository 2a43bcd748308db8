//! Finding things by what people call them: by id or by name, over all pages of a list.

use coffer_wire::trove::configuration::{
    Configuration, ConfigurationBody, ConfigurationsBody, GroupInstance, GroupInstancesBody,
};
use coffer_wire::trove::flavor::{Flavor, FlavorsBody};
use coffer_wire::trove::instance::{Instance, InstanceBody, InstancesBody};
use coffer_wire::trove::link::NextLink;
use coffer_wire::trove::operation::{Operation, OperationsBody};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::failure::{Failure, Kind};
use crate::trove::Trove;

/// All instances of the project, the newest of each page first.
pub(crate) async fn instances(trove: &Trove) -> Result<Vec<Instance>, Failure> {
    pages(trove, "/instances", |body: InstancesBody| (body.instances, body.links)).await
}

/// All configuration groups of the project, the newest of each page first.
pub(crate) async fn groups(trove: &Trove) -> Result<Vec<Configuration>, Failure> {
    pages(trove, "/configurations", |body: ConfigurationsBody| (body.configurations, body.links)).await
}

/// The instances that have a configuration group.
pub(crate) async fn group_instances(trove: &Trove, group: &str) -> Result<Vec<GroupInstance>, Failure> {
    let path = format!("/configurations/{group}/instances");
    pages(trove, &path, |body: GroupInstancesBody| (body.instances, body.links)).await
}

/// What is in all pages of a list.
async fn pages<B: DeserializeOwned, T>(
    trove: &Trove,
    list: &str,
    parts: impl Fn(B) -> (Vec<T>, Vec<NextLink>),
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    let mut path = list.to_owned();
    loop {
        let (items, links) = parts(trove.get(&path).await?);
        all.extend(items);
        // Only the query counts: the link begins with https and a host that may be a proxy's.
        match links.iter().find(|link| link.rel == "next").and_then(|link| link.href.split_once('?')) {
            Some((_, query)) => path = format!("{list}?{query}"),
            None => return Ok(all),
        }
    }
}

/// One configuration group with its values, by its id.
pub(crate) async fn group(trove: &Trove, id: &str) -> Result<Configuration, Failure> {
    trove.get(&format!("/configurations/{id}")).await.map(|body: ConfigurationBody| body.configuration)
}

/// One configuration group with its values, by its id or its name.
pub(crate) async fn group_named(trove: &Trove, wanted: &str) -> Result<Configuration, Failure> {
    if wanted.parse::<Uuid>().is_ok() {
        match group(trove, wanted).await {
            // A name may look like an id.
            Err(failure) if failure.kind == Kind::NotFound => {}
            other => return other,
        }
    }
    let named: Vec<_> = groups(trove).await?.into_iter().filter(|group| group.name == wanted).collect();
    let id = only("configuration group", wanted, named.iter().map(|g| g.id.as_str()).collect(), "configuration")?;
    group(trove, id).await
}

/// The one id of what has the name.
fn only<'a>(what: &str, wanted: &str, ids: Vec<&'a str>, list: &str) -> Result<&'a str, Failure> {
    match ids.as_slice() {
        [one] => Ok(one),
        [] => {
            let message = format!("there is no {what} '{wanted}'");
            Err(Failure::new(Kind::NotFound, message, format!("coffer {list} list")))
        }
        several => Err(Failure::new(
            Kind::Usage,
            format!("there are {} {what}s named '{wanted}': {}", several.len(), several.join(", ")),
            "use the id instead of the name",
        )),
    }
}

/// One instance with all its details, by its id.
pub(crate) async fn instance(trove: &Trove, id: &str) -> Result<Instance, Failure> {
    trove.get(&format!("/instances/{id}")).await.map(|body: InstanceBody| body.instance)
}

/// One instance with all its details, by its id or its name.
pub(crate) async fn instance_named(trove: &Trove, wanted: &str) -> Result<Instance, Failure> {
    if wanted.parse::<Uuid>().is_ok() {
        match instance(trove, wanted).await {
            // A name may look like an id.
            Err(failure) if failure.kind == Kind::NotFound => {}
            other => return other,
        }
    }
    let named: Vec<_> = instances(trove).await?.into_iter().filter(|instance| instance.name == wanted).collect();
    let id = only("instance", wanted, named.iter().map(|i| i.id.as_str()).collect(), "instance")?;
    instance(trove, id).await
}

/// One flavor, by its id or its name.
pub(crate) async fn flavor_named(trove: &Trove, wanted: &str) -> Result<Flavor, Failure> {
    let all: FlavorsBody = trove.get("/flavors").await?;
    let (by_id, by_name) = (|f: &&Flavor| f.str_id == wanted, |f: &&Flavor| f.name == wanted);
    let flavor = all.flavors.iter().find(by_id).or_else(|| all.flavors.iter().find(by_name)).cloned();
    flavor.ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no flavor '{wanted}'"), "coffer flavor list"))
}

/// The operations of an instance, the newest first.
pub(crate) async fn operations(trove: &Trove, instance: &str) -> Result<Vec<Operation>, Failure> {
    trove.get(&format!("/instances/{instance}/operations")).await.map(|body: OperationsBody| body.operations)
}
