//! The HTTP API: Trove v1.0, the embedded Keystone, and what operators look at.
//!
//! Guarantees:
//! - every answer has a request id, and an internal error tells nothing but that;
//! - nothing below `/v1.0` is reached without a valid token, in the token's own project, with a role that allows it: one
//!   place decides that for every route ([`admit`]);
//! - no body is read beyond [`body::LIMIT`], and no client is waited for for ever ([`serve`]);
//! - every route is described at `/openapi.json`, because it is made from the routes.
//!
//! Read in this order: [`serve`] (connections), [`observe`] and [`admit`] (what happens to every request), [`answer`],
//! [`fault`] and [`body`] (how answers and bodies look), then the routes.

mod accounts;
mod admit;
mod answer;
mod body;
mod configurations;
mod datastores;
mod described;
mod fault;
mod flavors;
mod instances;
mod keystone;
mod mgmt;
mod observe;
mod operations;
mod page;
mod quotas;
mod rollback;
mod roots;
mod serve;
mod stuck;
mod upgrade;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::identity::Identity;
use crate::metrics::Metrics;

pub use serve::serve;

/// What every request is answered from. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    pub app: Arc<App>,
    pub identity: Arc<Identity>,
    pub metrics: Arc<Metrics>,
}

/// All routes.
pub fn router(shared: Shared) -> Router {
    let (router, description) = OpenApiRouter::with_openapi(described::base())
        .merge(roots::routes())
        .merge(keystone::routes())
        .merge(datastores::routes())
        .merge(configurations::routes())
        .merge(flavors::routes())
        .merge(quotas::routes())
        .merge(instances::routes())
        .merge(upgrade::routes())
        .merge(rollback::routes())
        .merge(stuck::routes())
        .merge(operations::routes())
        .merge(accounts::routes())
        .merge(mgmt::routes())
        .split_for_parts();
    router
        .merge(keystone::more_routes())
        .merge(accounts::more_routes())
        .merge(mgmt::more_routes())
        .merge(described::route(description))
        .fallback(roots::no_route)
        // Trove knows no 405: a method that a path does not have is a path that there is not.
        .method_not_allowed_fallback(roots::no_method)
        .layer(from_fn_with_state(shared.clone(), admit::admit))
        .layer(from_fn_with_state(shared.clone(), observe::observe))
        .with_state(shared)
}
