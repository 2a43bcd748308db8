//! Limits and quotas: what a project may have, and has.

use axum::extract::State;
use coffer_core::id::ProjectId;
use coffer_wire::trove::quota::{Limit, LimitsBody, Quota, QuotasBody};
use coffer_wire::trove::{Date, Fault, Kind};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, ok};
use super::body::At;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(limits)).routes(routes!(quota))
}

/// More requests a minute than there can be. There is no limit, but clients show one for every method.
const REQUESTS: u64 = 100_000_000;

/// What a project may have at most, and how often it may ask.
#[utoipa::path(get, path = "/v1.0/{project}/limits", tag = "quotas", responses((status = 200, body = LimitsBody)))]
async fn limits(State(shared): State<Shared>) -> Answer {
    let quota = shared.app.config().quota;
    let absolute = Limit::Absolute {
        verb: "ABSOLUTE".to_owned(),
        max_instances: quota.instances,
        max_ram: -1,
        max_backups: 0,
        max_volumes: quota.volumes,
    };
    let now = format!("{}Z", Date(shared.app.clock.now()));
    let rate = |verb: &str, uri: &str, regex: &str| Limit::Rate {
        next_available: now.clone(),
        remaining: REQUESTS,
        unit: "MINUTE".to_owned(),
        value: REQUESTS,
        verb: verb.to_owned(),
        uri: uri.to_owned(),
        regex: regex.to_owned(),
    };
    let everywhere = ["POST", "PUT", "DELETE", "GET"].map(|verb| rate(verb, "*", ".*"));
    let limits = [absolute].into_iter().chain(everywhere).chain([rate("POST", "*/mgmt", "^/mgmt")]);
    ok(&LimitsBody { limits: limits.collect() })
}

#[derive(Deserialize)]
struct InTenant {
    tenant: String,
}

/// What a project may have, and has. Everybody may ask for their own.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/quotas/{tenant}", tag = "quotas",
    responses((status = 200, body = QuotasBody)))]
async fn quota(State(shared): State<Shared>, asker: Asker, At(at): At<InTenant>) -> Answer {
    let (caller, tenant) = (asker.caller(), ProjectId(at.tenant));
    if tenant != caller.project && !caller.is_admin() {
        let message = format!("Operation not allowed for tenant {}.", caller.project);
        return Err(Fault::new(Kind::Forbidden, message).into());
    }
    let quota = shared.app.quota(caller, &tenant).await?;
    let row =
        |resource: &str, in_use: i64, limit: i64| Quota { resource: resource.to_owned(), in_use, reserved: 0, limit };
    let quotas = vec![
        row("instances", quota.instances.in_use, quota.instances.limit),
        row("ram", 0, -1),
        row("backups", 0, 0),
        row("volumes", quota.volumes.in_use, quota.volumes.limit),
    ];
    ok(&QuotasBody { quotas })
}
