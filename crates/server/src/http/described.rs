//! The description of the API, made from the routes: `/openapi.json`.
//!
//! What holds for every route is added here and not at each: the parts of the path, the token, and how faults look.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use coffer_wire::trove::fault::FaultBody;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OneOfBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    Required, ResponseBuilder, Schema, Type,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::Shared;

/// The name of the token in the description.
const TOKEN: &str = "token";

/// What the description begins with.
pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Coffer")
        .description(Some(
            "OpenStack Trove's database API v1.0 and an embedded Keystone v3. What Coffer adds are keys and routes of \
             its own: operations, events, upgrade previews, findings.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    let token = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-auth-token")));
    let finding = coffer_wire::trove::fault::FindingBody::schema();
    let components = ComponentsBuilder::new()
        .security_scheme(TOKEN, token)
        .schema(FaultBody::name(), FaultBody::schema())
        .schema(coffer_wire::trove::fault::FindingBody::name(), finding)
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// The route that tells the description.
pub(super) fn route(description: OpenApi) -> Router<Shared> {
    let mut description = complete(description);
    let own = PathItem::new(
        utoipa::openapi::HttpMethod::Get,
        Operation::builder().summary(Some("This description.")).response("200", plain("the description")).build(),
    );
    description.paths.paths.insert("/openapi.json".to_owned(), own);
    // Made once: it does not change while the server runs.
    let text = description.to_json().unwrap_or_default();
    let answer = move || {
        let mut response = Response::new(Body::from(text.clone()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        std::future::ready(response)
    };
    Router::new().route("/openapi.json", get(answer))
}

fn complete(mut description: OpenApi) -> OpenApi {
    for (path, item) in &mut description.paths.paths {
        let below_token = path.starts_with("/v1.0/") || path.starts_with("/v3/projects");
        let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in all.into_iter().flatten() {
            operation.parameters.get_or_insert_default().extend(parts(path));
            operation.responses.responses.insert("default".to_owned(), fault().into());
            let reads_token = below_token || (path == "/v3/auth/tokens" && operation.request_body.is_none());
            if reads_token {
                operation.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
            }
        }
    }
    description
}

/// The parts of a path that are chosen by the caller.
fn parts(path: &str) -> impl Iterator<Item = RefOr<Parameter>> {
    let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    named.map(|name| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
            .into()
    })
}

/// How anything but success looks: one key, the fault's name; or the shape of the layer in front of Trove.
fn fault() -> utoipa::openapi::Response {
    let named = ObjectBuilder::new()
        .description(Some("one key, the fault's name, such as itemNotFound, or error for Keystone's"))
        .additional_properties(Some(Ref::from_schema_name(FaultBody::name())));
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let front = ObjectBuilder::new()
        .description(Some("a foreign project, what is no JSON, and what does not say that it is"))
        .property("message", text())
        .property("code", text())
        .property("title", text())
        .required("message")
        .required("code")
        .required("title");
    let either = Schema::OneOf(OneOfBuilder::new().item(named).item(front).build());
    let content = ContentBuilder::new().schema(Some(either)).build();
    ResponseBuilder::new().description("a fault").content("application/json", content).build()
}

fn plain(what: &str) -> utoipa::openapi::Response {
    let content = ContentBuilder::new().schema(Some(ObjectBuilder::new().build())).build();
    ResponseBuilder::new().description(what).content("application/json", content).build()
}
