//! Finding things by what people call them: by id or by name, over all pages of a list.

use coffer_wire::trove::flavor::{Flavor, FlavorsBody};
use coffer_wire::trove::instance::{Instance, InstanceBody, InstancesBody};
use coffer_wire::trove::operation::{Operation, OperationsBody};
use uuid::Uuid;

use crate::failure::{Failure, Kind};
use crate::trove::Trove;

/// All instances of the project, the newest of each page first.
pub(crate) async fn instances(trove: &Trove) -> Result<Vec<Instance>, Failure> {
    let mut all = Vec::new();
    let mut path = "/instances".to_owned();
    loop {
        let page: InstancesBody = trove.get(&path).await?;
        all.extend(page.instances);
        // Only the query counts: the link begins with https and a host that may be a proxy's.
        match page.links.iter().find(|link| link.rel == "next").and_then(|link| link.href.split_once('?')) {
            Some((_, query)) => path = format!("/instances?{query}"),
            None => return Ok(all),
        }
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
    match named.as_slice() {
        [one] => instance(trove, &one.id).await,
        [] => Err(Failure::new(Kind::NotFound, format!("there is no instance '{wanted}'"), "coffer instance list")),
        several => {
            let ids: Vec<_> = several.iter().map(|instance| instance.id.as_str()).collect();
            Err(Failure::new(
                Kind::Usage,
                format!("there are {} instances named '{wanted}': {}", several.len(), ids.join(", ")),
                "use the id instead of the name",
            ))
        }
    }
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
