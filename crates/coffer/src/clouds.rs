//! Which server to talk to and as whom: clouds.yaml and the `OS_*` variables, read as the openstack client reads them.
//!
//! The first file that exists counts: the one that `OS_CLIENT_CONFIG_FILE` names, then `clouds.yaml` here, in
//! `~/.config/openstack` and in `/etc/openstack`. The cloud is the one that `--os-cloud` or `OS_CLOUD` names, or the
//! only one there is. An `OS_*` variable overrides what the file says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::failure::{Failure, Kind};

/// A server, and the credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Cloud {
    /// The root of the identity API, ending in `/v3`.
    pub auth_url: String,
    pub credentials: Credentials,
    /// The project to work in: its id, or its name and domain.
    pub project: Named,
    pub region: Option<String>,
    /// Which of the catalogue's endpoints is used; `public` unless told otherwise.
    pub interface: String,
    /// Certificates to trust beside the system's.
    pub cacert: Option<PathBuf>,
    /// Whether the server's certificate is checked.
    pub verify: bool,
}

/// Who is asking.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password { user: Named, password: String },
    Token(String),
}

/// A user or project: by its id, or by its name within a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Id(String),
    Name { name: String, domain: Domain },
}

/// A domain, by its id or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Id(String),
    Name(String),
}

/// Passwords and tokens never reach a log or an error, so this says who and where only.
impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("auth_url", &self.auth_url)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    clouds: BTreeMap<String, Entry>,
}

/// One cloud of the file. Much more can stand there that concerns other services, so unknown keys are not errors.
#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: BTreeMap<String, serde_norway::Value>,
    auth_type: Option<String>,
    region_name: Option<String>,
    interface: Option<String>,
    cacert: Option<PathBuf>,
    verify: Option<bool>,
}

/// Looks up one environment variable. A parameter, so that tests need not change the process's own.
pub(crate) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment; a variable that is set to nothing counts as not set.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The cloud that the command line, the environment and the file name together.
pub(crate) fn load(named: Option<&str>, variable: Variable<'_>) -> Result<Cloud, Failure> {
    let file = find_file(variable)?;
    let mut clouds = match &file {
        Some(path) => parse(path)?,
        None => BTreeMap::new(),
    };
    let entry = match named {
        Some(name) => clouds.remove(name).ok_or_else(|| unknown_cloud(name, file.as_deref(), &clouds))?,
        None if variable("OS_AUTH_URL").is_none() => match clouds.len() {
            1 => clouds.pop_first().map(|(_, entry)| entry).unwrap_or_default(),
            0 => return Err(nothing_configured()),
            _ => return Err(several_clouds(&clouds)),
        },
        None => Entry::default(),
    };
    assemble(entry, variable)
}

fn find_file(variable: Variable<'_>) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = variable("OS_CLIENT_CONFIG_FILE").map(PathBuf::from) {
        // Falling back to another file when this one is missing would act on another cloud than the one meant.
        return if path.exists() {
            Ok(Some(path))
        } else {
            Err(Failure::new(
                Kind::Auth,
                format!("OS_CLIENT_CONFIG_FILE names {}, which does not exist", path.display()),
                "coffer serve writes it as clouds.yaml in its data directory",
            ))
        };
    }
    let user = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|config| config.join("openstack"));
    let directories = [Some(PathBuf::from(".")), user, Some(PathBuf::from("/etc/openstack"))];
    let candidates = directories.into_iter().flatten().flat_map(|d| [d.join("clouds.yaml"), d.join("clouds.yml")]);
    Ok(candidates.into_iter().find(|path| path.exists()))
}

fn parse(path: &Path) -> Result<BTreeMap<String, Entry>, Failure> {
    let unusable =
        |why: String| Failure::new(Kind::Auth, format!("{} cannot be used: {why}", path.display()), "correct the file");
    let text = fs::read_to_string(path).map_err(|e| unusable(e.to_string()))?;
    serde_norway::from_str::<Document>(&text).map(|document| document.clouds).map_err(|e| unusable(e.to_string()))
}

fn assemble(entry: Entry, variable: Variable<'_>) -> Result<Cloud, Failure> {
    let auth =
        |key: &str| variable(&format!("OS_{}", key.to_uppercase())).or_else(|| entry.auth.get(key).and_then(scalar));
    let auth_type = variable("OS_AUTH_TYPE").or(entry.auth_type).unwrap_or_else(|| "password".to_owned());
    let credentials = match auth_type.as_str() {
        "password" | "v3password" => Credentials::Password {
            user: named("user", "user", "username", &auth)?,
            password: auth("password").ok_or_else(|| missing("password", "OS_PASSWORD"))?,
        },
        "token" | "v3token" => Credentials::Token(auth("token").ok_or_else(|| missing("token", "OS_TOKEN"))?),
        other => {
            return Err(Failure::new(
                Kind::Auth,
                format!("auth_type '{other}' is not known here"),
                "use password or token",
            ));
        }
    };
    let mut auth_url = auth("auth_url").ok_or_else(|| missing("auth_url", "OS_AUTH_URL"))?;
    auth_url.truncate(auth_url.trim_end_matches('/').len());
    if !auth_url.ends_with("/v3") {
        auth_url.push_str("/v3");
    }
    Ok(Cloud {
        auth_url,
        credentials,
        project: named("project", "project", "project_name", &auth)?,
        region: variable("OS_REGION_NAME").or(entry.region_name),
        interface: variable("OS_INTERFACE").or(entry.interface).unwrap_or_else(|| "public".to_owned()),
        cacert: variable("OS_CACERT").map(PathBuf::from).or(entry.cacert),
        verify: entry.verify.unwrap_or(true),
    })
}

/// A user or a project from the keys `{what}_id`, `{name_key}`, `{domain_of}_domain_id` and `{domain_of}_domain_name`.
fn named(what: &str, domain_of: &str, name_key: &str, auth: &dyn Fn(&str) -> Option<String>) -> Result<Named, Failure> {
    if let Some(id) = auth(&format!("{what}_id")) {
        return Ok(Named::Id(id));
    }
    let name = auth(name_key).ok_or_else(|| missing(name_key, &format!("OS_{}", name_key.to_uppercase())))?;
    let domain =
        auth(&format!("{domain_of}_domain_id")).or_else(|| auth("default_domain_id")).map(Domain::Id).or_else(|| {
            auth(&format!("{domain_of}_domain_name")).or_else(|| auth("default_domain_name")).map(Domain::Name)
        });
    Ok(Named::Name { name, domain: domain.unwrap_or_else(|| Domain::Id("default".to_owned())) })
}

/// Values that look like numbers, such as a password of digits, are text all the same.
fn scalar(value: &serde_norway::Value) -> Option<String> {
    match value {
        serde_norway::Value::String(text) => Some(text.clone()),
        serde_norway::Value::Number(number) => Some(number.to_string()),
        serde_norway::Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn missing(key: &str, variable: &str) -> Failure {
    Failure::new(Kind::Auth, format!("the credentials have no {key}"), format!("set it in clouds.yaml, or {variable}"))
}

fn nothing_configured() -> Failure {
    Failure::new(
        Kind::Auth,
        "no clouds.yaml and no OS_* variables say which server to talk to",
        "export OS_CLIENT_CONFIG_FILE=DIR/clouds.yaml OS_CLOUD=demo, with DIR the data directory of coffer serve",
    )
}

fn several_clouds(clouds: &BTreeMap<String, Entry>) -> Failure {
    Failure::new(
        Kind::Auth,
        "several clouds are configured, and none is chosen",
        format!("export OS_CLOUD={}", choices(clouds)),
    )
}

fn unknown_cloud(name: &str, file: Option<&Path>, clouds: &BTreeMap<String, Entry>) -> Failure {
    match file {
        Some(file) if !clouds.is_empty() => Failure::new(
            Kind::Auth,
            format!("there is no cloud '{name}' in {}", file.display()),
            format!("export OS_CLOUD={}", choices(clouds)),
        ),
        _ => Failure::new(
            Kind::Auth,
            format!("there is no cloud '{name}': no clouds.yaml was found"),
            nothing_configured().hint,
        ),
    }
}

fn choices(clouds: &BTreeMap<String, Entry>) -> String {
    clouds.keys().map(String::as_str).collect::<Vec<_>>().join(" or OS_CLOUD=")
}

#[cfg(test)]
mod tests {
    use super::{Cloud, Credentials, Domain, Failure, Kind, Named, load};

    const TWO: &str = "
clouds:
  demo:
    auth: {auth_url: 'http://127.0.0.1:8779/v3/', username: demo, password: 12345, project_name: demo,
           user_domain_name: Default, project_domain_id: default}
    region_name: RegionOne
    unknown_service_api_version: 3
  admin:
    auth: {auth_url: 'https://cloud/identity', username: admin, password: s, project_id: abc, user_domain_name: D}
    interface: internal
    verify: false
";

    fn check(file: &str, named: Option<&str>, variables: &[(&str, &str)]) -> Result<Cloud, Failure> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("clouds.yaml");
        std::fs::write(&path, file).expect("the file is written");
        let path = path.to_string_lossy().into_owned();
        load(named, &|name| {
            let given = variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            given.or_else(|| (name == "OS_CLIENT_CONFIG_FILE").then(|| path.clone()))
        })
    }

    #[test]
    fn a_named_cloud_is_read_as_the_openstack_client_reads_it() {
        let demo = check(TWO, Some("demo"), &[]).expect("demo");
        assert_eq!(demo.auth_url, "http://127.0.0.1:8779/v3");
        assert_eq!(demo.region.as_deref(), Some("RegionOne"));
        assert_eq!((demo.interface.as_str(), demo.verify), ("public", true));
        assert_eq!(demo.project, Named::Name { name: "demo".into(), domain: Domain::Id("default".into()) });
        let user = Named::Name { name: "demo".into(), domain: Domain::Name("Default".into()) };
        assert!(demo.credentials == Credentials::Password { user, password: "12345".into() });

        let admin = check(TWO, Some("admin"), &[]).expect("admin");
        assert_eq!(admin.auth_url, "https://cloud/identity/v3");
        assert_eq!(admin.project, Named::Id("abc".into()));
        assert_eq!((admin.interface.as_str(), admin.verify), ("internal", false));
    }

    #[test]
    fn variables_override_the_file_and_are_enough_alone() {
        let demo = check(TWO, Some("demo"), &[("OS_REGION_NAME", "Two"), ("OS_PROJECT_NAME", "other")]).expect("demo");
        assert_eq!(demo.region.as_deref(), Some("Two"));
        assert!(matches!(demo.project, Named::Name { name, .. } if name == "other"));

        let variables =
            [("OS_AUTH_URL", "http://h:1"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "p"), ("OS_PROJECT_NAME", "p")];
        assert_eq!(check("clouds: {}", None, &variables).expect("variables").auth_url, "http://h:1/v3");
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let check = |file: &str, named: Option<&str>, variables: &[(&str, &str)], message: &str, hint: &str| {
            let failure = check(file, named, variables).expect_err(message);
            assert_eq!(failure.kind, Kind::Auth);
            assert!(failure.message.contains(message), "{failure}");
            assert!(failure.hint.contains(hint), "{failure}");
            assert!(!failure.to_string().contains("12345"), "a password is told: {failure}");
        };
        check(TWO, None, &[], "several clouds", "OS_CLOUD=admin or OS_CLOUD=demo");
        check(TWO, Some("prod"), &[], "no cloud 'prod'", "OS_CLOUD=admin");
        check("clouds: {}", None, &[], "no clouds.yaml", "OS_CLIENT_CONFIG_FILE");
        check("clouds: [", None, &[], "cannot be used", "correct the file");
        check(TWO, Some("demo"), &[("OS_CLIENT_CONFIG_FILE", "/nowhere/c.yaml")], "does not exist", "coffer serve");
        check(TWO, Some("demo"), &[("OS_AUTH_TYPE", "v3oidc")], "v3oidc", "password or token");
        check("clouds: {a: {auth: {auth_url: u, username: x}}}", None, &[], "no password", "OS_PASSWORD");
    }
}
