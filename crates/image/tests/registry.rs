//! Pulling from a registry: a real one (Debian's `docker-registry`), one that wants tokens, and ones that fail.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coffer_image::{Digest, Image, Limits, Observer, Progress, Release, Result, Store};
use fs_err as fs;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::{Value, json};
use support::{HandMade, archive_of, gzip, release, scratch, silent, write_engine};

/// A `docker-registry` process of this test, on a free port of 127.0.0.1.
struct Registry {
    directory: PathBuf,
    address: String,
    process: Child,
}

impl Registry {
    /// None, said loudly, where the program is not installed.
    fn start(directory: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let process = Self::run(directory, &address)?;
        let registry = Self { directory: directory.to_owned(), address, process };
        registry.wait();
        Some(registry)
    }

    fn run(directory: &Path, address: &str) -> Option<Child> {
        let configuration = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\n\
             http: {{addr: {address}, secret: test}}\n",
            directory.display()
        );
        let path = directory.join("registry.yml");
        fs::write(&path, configuration).unwrap();
        let started =
            Command::new("docker-registry").arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match started {
            Ok(process) => Some(process),
            Err(error) => {
                println!("NOT RUN: docker-registry does not start ({error}); apt-get install docker-registry");
                None
            }
        }
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn restart(&mut self) {
        self.process = Self::run(&self.directory, &self.address).unwrap();
        self.wait();
    }

    /// The file in which the registry keeps a blob.
    fn stored(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.directory.join("registry/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Pushes an image of the layout, and tags it.
    async fn push(&self, layout: &HandMade, manifest: &Value, tag: &str) {
        let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(config);
        let to: Reference = format!("{}/engines/redis:{tag}", self.address).parse().unwrap();
        client.auth(&to, &RegistryAuth::Anonymous, RegistryOperation::Push).await.unwrap();
        let read = |descriptor: &Value| fs::read(layout.blob(descriptor["digest"].as_str().unwrap())).unwrap();
        let bytes = read(manifest);
        let content: Value = serde_json::from_slice(&bytes).unwrap();
        let parts = content["layers"].as_array().into_iter().flatten().chain(content.get("config"));
        for blob in parts {
            client.push_blob(&to, read(blob), blob["digest"].as_str().unwrap()).await.unwrap();
        }
        let kind = content["mediaType"].as_str().unwrap().parse().unwrap();
        client.push_manifest_raw(&to, bytes, kind).await.unwrap();
    }

    fn wanted(&self, name: &str) -> Release {
        let source = format!("from = \"registry\"\nreference = \"{}/engines/redis{name}\"", self.address);
        release(&self.directory, "7.0.15", &[source])
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn layer(directory: &Path, ballast: usize) -> Vec<u8> {
    let tree = directory.join(format!("tree-{ballast}"));
    write_engine(&tree, "7.0.15");
    // Bytes that do not compress, so that the image is as large in the store.
    let mut state = 1_u32;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    fs::write(tree.join("ballast"), bytes.take(ballast).collect::<Vec<_>>()).unwrap();
    archive_of(&tree)
}

async fn fetch_into(directory: PathBuf, wanted: &Release) -> Result<Image> {
    let limits = Limits { silence: Duration::from_secs(2), ..Limits::default() };
    Store::open_with(&directory, limits)?.fetch(wanted, &silent()).await
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest_and_no_other_is_accepted() {
    let scratch = scratch();
    let Some(registry) = Registry::start(scratch.path()) else { return };
    let layout = HandMade::new(scratch.path().join("layout"));
    let layer = layer(scratch.path(), 1000);
    let mut manifest = layout.put_image(std::slice::from_ref(&layer));
    registry.push(&layout, &manifest, "7.0.15").await;
    let digest = manifest["digest"].as_str().unwrap().to_owned();

    let mut stores = 0;
    let mut fetch = |name: &str| {
        stores += 1;
        let wanted = registry.wanted(name);
        let store = scratch.path().join(format!("store{stores}"));
        async move { fetch_into(store, &wanted).await }
    };
    assert_eq!(fetch(":7.0.15").await.unwrap().digest.to_string(), digest);
    assert_eq!(fetch(&format!("@{digest}")).await.unwrap().digest.to_string(), digest);
    let refused = fetch(":7.0.16").await.unwrap_err().to_string();
    assert!(refused.contains("manifest unknown") || refused.contains("MANIFEST_UNKNOWN"), "{refused}");
    let absent = format!("@sha256:{}", "1".repeat(64));
    assert!(fetch(&absent).await.unwrap_err().to_string().contains("did not give image"));

    // An index for several platforms: this machine's image is taken.
    let mut other = layout.put_image(&[]);
    registry.push(&layout, &other, "other").await;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
    other["platform"] = json!({ "architecture": "s390x", "os": "linux" });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [other, manifest] });
    let index = layout.put(index.to_string().as_bytes(), kind);
    registry.push(&layout, &index, "many").await;
    assert_eq!(fetch(":many").await.unwrap().digest.to_string(), digest);

    // A registry that gives other content than it was asked for, first in a layer, then in the manifest.
    let layer_file = registry.stored(&Digest::of(&layer).to_string());
    let mut tampered = layer.clone();
    tampered[layer.len() / 2] ^= 1;
    fs::write(&layer_file, tampered).unwrap();
    let refused = fetch(":7.0.15").await.unwrap_err().to_string();
    assert!(refused.contains(&format!("expected {}", Digest::of(&layer))), "{refused}");
    fs::write(&layer_file, &layer).unwrap();
    let manifest_file = registry.stored(&digest);
    fs::write(&manifest_file, fs::read_to_string(&manifest_file).unwrap() + " ").unwrap();
    let refused = fetch(&format!("@{digest}")).await.unwrap_err().to_string();
    assert!(refused.contains("did not give image") || refused.contains("expected sha256"), "{refused}");
}

#[tokio::test]
async fn a_pull_that_was_cut_off_says_so_and_goes_on_when_asked_again() {
    let scratch = scratch();
    let Some(mut registry) = Registry::start(scratch.path()) else { return };
    let layout = HandMade::new(scratch.path().join("layout"));
    let empty = gzip(&vec![0; 10_240]);
    let manifest = layout.put_image(&[empty.clone(), layer(scratch.path(), 32 << 20)]);
    registry.push(&layout, &manifest, "large").await;
    let wanted = registry.wanted(":large");
    let place = scratch.path().join("store");
    let limits = Limits { silence: Duration::from_secs(3), ..Limits::default() };
    let store = Store::open_with(&place, limits).unwrap();

    for signal in ["KILL", "STOP"] {
        let pid = registry.process.id().to_string();
        let struck = Arc::new(Mutex::new(false));
        let observer: Observer = Arc::new(move |progress| {
            // Some of the large layer has arrived.
            if matches!(progress, Progress::Downloaded { bytes, .. } if bytes > 1 << 20)
                && !std::mem::replace(&mut *struck.lock().unwrap(), true)
            {
                Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
            }
        });
        let began = Instant::now();
        let refused = store.fetch(&wanted, &observer).await.unwrap_err().to_string();
        let expected = if signal == "KILL" { "ended after" } else { "sent nothing for 3 s" };
        assert!(refused.contains(expected), "{signal}: {refused}");
        assert!(began.elapsed() < Duration::from_secs(20), "{signal}: {:?}", began.elapsed());
        assert_eq!(store.list().unwrap(), []);
        let blob = place.join("images/blobs/sha256").join(Digest::of(&empty).hex());
        assert!(blob.exists(), "{signal}: what arrived whole is kept");
        assert_eq!(fs::read_dir(place.join("tmp")).unwrap().count(), 0, "{signal}");
        let _ = registry.process.kill();
        registry.process.wait().unwrap();
        registry.restart();
    }
    let image = store.fetch(&wanted, &silent()).await.unwrap();
    assert_eq!(image.digest.to_string(), manifest["digest"].as_str().unwrap());
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_given_up_in_time() {
    let scratch = scratch();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, expected) in [(deaf.local_addr().unwrap(), "sent nothing for 2 s"), (nobody, "refused")] {
        let source = format!("from = \"registry\"\nreference = \"{address}/engines/redis:7.0.15\"");
        let wanted = release(scratch.path(), "7.0.15", &[source]);
        let began = Instant::now();
        let said = fetch_into(scratch.path().join("store"), &wanted).await.unwrap_err().to_string();
        assert!(said.contains(expected), "{said} lacks {expected:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_token_is_asked_for_one() {
    let scratch = scratch();
    let layout = HandMade::new(scratch.path().join("layout"));
    let manifest = layout.put_image(&[layer(scratch.path(), 1000)]);
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (blobs, requests) = (layout.0.join("blobs/sha256"), Arc::clone(&asked));
    let tag = digest.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            answer(connection, &blobs, &tag, &address.to_string(), &requests);
        }
    });
    let source = format!("from = \"registry\"\nreference = \"{address}/engines/redis:7.0.15\"");
    let wanted = release(scratch.path(), "7.0.15", &[source]);
    let image = fetch_into(scratch.path().join("store"), &wanted).await.unwrap();
    assert_eq!(image.digest.to_string(), digest);
    let asked = asked.lock().unwrap();
    let tokens = asked.iter().find(|line| line.contains("/token")).cloned().unwrap_or_default();
    assert!(tokens.contains("scope=repository") && tokens.contains("engines"), "{asked:?}");
}

/// One request to a registry of one image, which is read with the token `t` only.
fn answer(stream: TcpStream, blobs: &Path, tag: &str, address: &str, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        head.push(std::mem::take(&mut line).trim().to_owned());
    }
    let Some(request) = head.first().cloned() else { return };
    asked.lock().unwrap().push(request.clone());
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let allowed = head.iter().any(|h| h.eq_ignore_ascii_case("authorization: Bearer t"));
    let last = path.rsplit('/').next().unwrap_or_default();
    let name = if last == "7.0.15" { tag } else { last };
    let mut body = Vec::new();
    let head = if path.starts_with("/token") {
        body.extend_from_slice(br#"{"token":"t"}"#);
        "200 OK\r\nContent-Type: application/json".to_owned()
    } else if !allowed {
        format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"")
    } else {
        let file = blobs.join(name.trim_start_matches("sha256:"));
        std::fs::File::open(file).unwrap().read_to_end(&mut body).unwrap();
        format!("200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: {name}")
    };
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}
