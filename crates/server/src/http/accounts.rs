//! Databases, users and root of an instance.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use coffer_core::account::{Account, Answer as Told, Part, Password, Refusal, Request, UserChange as Change};
use coffer_core::engine::sql::accounts::ROOT;
use coffer_core::id::InstanceId;
use coffer_wire::trove::account::{
    DatabasesBody, NewDatabasesBody, NewUsersBody, RootBody, RootUser, RootUserBody, UserBody, UserChange,
    UserChangeBody, UsersBody, names, read_root,
};
use coffer_wire::trove::instance::Password as Shown;
use coffer_wire::trove::link::encoded;
use coffer_wire::trove::{Fault, Kind};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, Refused, accepted, empty, ok};
use super::body::{At, Json, MaybeJson};
use super::page::Paging;
use crate::key;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_databases, make_databases))
        .routes(routes!(drop_database))
        .routes(routes!(list_users, make_users, set_passwords))
        .routes(routes!(show_user, change_user, drop_user))
        .routes(routes!(list_access, grant))
        .routes(routes!(revoke))
        .routes(routes!(show_root, enable_root, disable_root))
}

/// A route that Trove has and answers with 501.
pub(super) fn more_routes() -> Router<Shared> {
    let no_show = async || Refused::from(Fault::not_implemented("Showing a single database is not supported."));
    Router::new().route("/v1.0/{project}/instances/{id}/databases/{database}", get(no_show))
}

/// What a path names below an instance; empty where it names no such thing.
#[derive(Deserialize)]
struct InAccounts {
    id: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    database: String,
}

impl InAccounts {
    fn account(&self) -> Account {
        Account::parse(&self.user)
    }

    /// The instance's id. One that there is not, or that is somebody else's, is told before what is wrong with the body.
    async fn found(&self, shared: &Shared, asker: &Asker) -> Result<InstanceId, Refused> {
        let id = self.id.parse().map_err(|_| Fault::no_resource(&self.id))?;
        shared.app.instance(asker.caller(), id).await?;
        Ok(id)
    }
}

/// Asks, and tells what was refused.
async fn ask(shared: &Shared, asker: &Asker, id: InstanceId, request: Request) -> Result<Told, Refused> {
    told(shared.app.accounts(asker.caller(), id, request).await?)
}

/// The answer, or the fault for what was refused.
fn told(answer: Told) -> Result<Told, Refused> {
    match answer {
        Told::Refused(refusal) => {
            let kind = match refusal {
                Refusal::DatabaseAbsent(_) | Refusal::UserAbsent(_) | Refusal::RootDisabled => Kind::NotFound,
                Refusal::DatabaseExists(_) | Refusal::UserExists(_) | Refusal::ByEngine(_) => Kind::BadRequest,
            };
            Err(Fault::new(kind, refusal.to_string()).into())
        }
        told => Ok(told),
    }
}

/// Asks for a change.
async fn change(shared: &Shared, asker: &Asker, id: InstanceId, request: Request) -> Answer {
    ask(shared, asker, id, request).await.map(|_| accepted())
}

/// An agent that answers something else than it was asked.
fn beside() -> Refused {
    Refused::internal(crate::app::Error::internal("the agent answered something else than it was asked".to_owned()))
}

fn part(shared: &Shared, paging: &Paging) -> Part {
    let most = shared.app.config().page_size;
    Part { after: paging.page.marker.clone(), limit: paging.page.limit.unwrap_or(most).min(most) }
}

/// The tenant's databases, by name.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/databases", tag = "accounts",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only names after this one"),
    ),
    responses((status = 200, body = DatabasesBody)))]
async fn list_databases(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, paging: Paging) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let told = ask(&shared, &asker, id, Request::Databases(part(&shared, &paging))).await?;
    let Told::Databases { names: found, more } = told else { return Err(beside()) };
    let links = next(&asker, &paging, more.then(|| found.last().cloned()).flatten());
    ok(&DatabasesBody { databases: names(found), links })
}

fn next(asker: &Asker, paging: &Paging, marker: Option<String>) -> Vec<coffer_wire::trove::link::NextLink> {
    let link = |marker: String| asker.links().next(&paging.path, paging.query.as_deref(), &encoded(&marker));
    marker.map(link).unwrap_or_default()
}

/// New databases; all of them, or none.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/databases", tag = "accounts",
    request_body = NewDatabasesBody, responses((status = 202)))]
async fn make_databases(
    State(shared): State<Shared>,
    asker: Asker,
    At(at): At<InAccounts>,
    Json(body): Json,
) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let databases = NewDatabasesBody::read(&body)?.into_iter().map(Into::into).collect();
    change(&shared, &asker, id, Request::Make { databases, users: Vec::new(), again: false }).await
}

/// Removes a database with everything in it.
#[utoipa::path(delete, path = "/v1.0/{project}/instances/{id}/databases/{database}", tag = "accounts",
    responses((status = 202)))]
async fn drop_database(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    change(&shared, &asker, id, Request::DropDatabase { name: at.database }).await
}

/// The tenant's users, by name and host, with the databases on which they have something.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/users", tag = "accounts",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only users after this one, written name@host"),
    ),
    responses((status = 200, body = UsersBody)))]
async fn list_users(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, paging: Paging) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let told = ask(&shared, &asker, id, Request::Users(part(&shared, &paging))).await?;
    let Told::Users { users, more } = told else { return Err(beside()) };
    let last = users.last().map(|user| user.account.to_string());
    let links = next(&asker, &paging, last.filter(|_| more));
    ok(&UsersBody { users: users.into_iter().map(Into::into).collect(), links })
}

/// New users, each with everything on its databases; all of them, or none.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/users", tag = "accounts", request_body = NewUsersBody,
    responses((status = 202)))]
async fn make_users(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, Json(body): Json) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let users = NewUsersBody::read(&body)?.into_iter().map(Into::into).collect();
    change(&shared, &asker, id, Request::Make { databases: Vec::new(), users, again: false }).await
}

/// Other passwords; for all of these users, or for none.
#[utoipa::path(put, path = "/v1.0/{project}/instances/{id}/users", tag = "accounts", request_body = NewUsersBody,
    responses((status = 202)))]
async fn set_passwords(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, Json(body): Json) -> Answer {
    set_all_passwords(&shared, &asker, &at, &body).await
}

async fn set_all_passwords(shared: &Shared, asker: &Asker, at: &InAccounts, body: &Value) -> Answer {
    let id = at.found(shared, asker).await?;
    let users = NewUsersBody::read(body)?.into_iter().map(|user| Change {
        account: Account::new(&user.name, user.host.as_deref()),
        password: Some(user.password.into()),
        becomes: None,
    });
    change(shared, asker, id, Request::Change { users: users.collect() }).await
}

/// One user, named `name` or `name@host`.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/users/{user}", tag = "accounts",
    responses((status = 200, body = UserBody)))]
async fn show_user(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let request = Request::User { account: at.account() };
    let Told::User(user) = ask(&shared, &asker, id, request).await? else { return Err(beside()) };
    ok(&UserBody { user: user.into() })
}

/// Trove's other name for a change of the passwords of several users. A user may have that name, too.
const ALL_USERS: &str = "update_all";

/// Another name, host or password.
#[utoipa::path(put, path = "/v1.0/{project}/instances/{id}/users/{user}", tag = "accounts",
    request_body = UserChangeBody, responses((status = 202)))]
async fn change_user(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, Json(body): Json) -> Answer {
    if at.user == ALL_USERS && body.get("users").is_some() {
        return set_all_passwords(&shared, &asker, &at, &body).await;
    }
    let id = at.found(&shared, &asker).await?;
    let UserChange { name, password, host } = UserChange::read(&body)?;
    let account = at.account();
    let becomes = Account { name: name.unwrap_or(account.name.clone()), host: host.unwrap_or(account.host.clone()) };
    let becomes = (becomes != account).then_some(becomes);
    let users = vec![Change { account, password: password.map(Into::into), becomes }];
    change(&shared, &asker, id, Request::Change { users }).await
}

/// Removes a user.
#[utoipa::path(delete, path = "/v1.0/{project}/instances/{id}/users/{user}", tag = "accounts",
    responses((status = 202)))]
async fn drop_user(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    change(&shared, &asker, id, Request::DropUser { account: at.account() }).await
}

/// The databases on which a user has something.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/users/{user}/databases", tag = "accounts",
    responses((status = 200, body = DatabasesBody)))]
async fn list_access(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let request = Request::User { account: at.account() };
    let Told::User(user) = ask(&shared, &asker, id, request).await? else { return Err(beside()) };
    ok(&DatabasesBody { databases: names(user.databases), links: Vec::new() })
}

/// Gives a user everything on these databases.
#[utoipa::path(put, path = "/v1.0/{project}/instances/{id}/users/{user}/databases", tag = "accounts",
    request_body = NewDatabasesBody, responses((status = 202)))]
async fn grant(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, Json(body): Json) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let databases = NewDatabasesBody::read(&body)?.into_iter().map(|database| database.name).collect();
    let request = Request::Grant { account: at.account(), databases };
    change(&shared, &asker, id, request).await
}

/// Takes from a user what it was given on a database.
#[utoipa::path(delete, path = "/v1.0/{project}/instances/{id}/users/{user}/databases/{database}", tag = "accounts",
    responses((status = 202)))]
async fn revoke(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let request = Request::Revoke { account: at.account(), database: at.database };
    change(&shared, &asker, id, request).await
}

/// Whether root may log in.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/root", tag = "accounts",
    responses((status = 200, body = RootBody)))]
async fn show_root(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let Told::Root { enabled } = ask(&shared, &asker, id, Request::Root).await? else { return Err(beside()) };
    ok(&RootBody { enabled })
}

/// `{"password": "x"}`, for the description.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct EnableRootBody {
    /// A new one is made where it is left out.
    password: Option<String>,
}

/// Lets root log in, with the password that is asked for or a new one. It is shown this once.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/root", tag = "accounts", request_body = Option<EnableRootBody>,
    responses((status = 200, body = RootUserBody)))]
async fn enable_root(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>, body: MaybeJson) -> Answer {
    let id = at.found(&shared, &asker).await?;
    let given = body.0.as_ref().map(read_root).transpose()?.flatten();
    let password = match given {
        Some(Shown(password)) => password,
        None => key::new_password().map_err(Refused::internal)?,
    };
    told(shared.app.enable_root(asker.caller(), id, Password::Clear(password.clone())).await?)?;
    ok(&RootUserBody { user: RootUser { name: ROOT.to_owned(), password: Shown(password) } })
}

/// Lets root log in no more. Only where it never could there is nothing to disable.
#[utoipa::path(delete, path = "/v1.0/{project}/instances/{id}/root", tag = "accounts", responses((status = 204)))]
async fn disable_root(State(shared): State<Shared>, asker: Asker, At(at): At<InAccounts>) -> Answer {
    let id = at.found(&shared, &asker).await?;
    told(shared.app.disable_root(asker.caller(), id).await?).map(|_| empty(StatusCode::NO_CONTENT))
}
