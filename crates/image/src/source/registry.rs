//! Pulling an image from an OCI registry.
//!
//! Every blob is checked against its digest before it is kept, and kept as soon as it is whole: asking again after an
//! interruption gets only what is missing. Anonymous tokens, as the public registries want them, are the library's
//! work; TLS is rustls with ring. Plain HTTP is spoken to this machine's own addresses only.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
    OciManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::Fetch;
use crate::command::blocking;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{blobs_of, choose_platform, parse};
use crate::progress::Progress;

const ACCEPTED: [&str; 4] =
    [OCI_IMAGE_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];

/// Pulls the image of this machine's platform; gives the digest of its manifest.
pub(super) async fn pull(fetch: &Fetch<'_>, reference: &str) -> Result<Digest> {
    let image: Reference = reference.parse().map_err(|_| Error::BadReference(reference.to_owned()))?;
    let pull = Pull::new(fetch, image);
    fetch.step("ask the registry for the image");
    let (mut digest, mut manifest) = pull.manifest(&pull.image).await?;
    if let OciManifest::ImageIndex(index) = manifest {
        let chosen = choose_platform(&index.manifests, reference)?;
        let of_platform = pull.image.clone_with_digest(chosen.to_string());
        (digest, manifest) = pull.manifest(&of_platform).await?;
    }
    let OciManifest::Image(manifest) = manifest else {
        return Err(Error::WrongPlatform { what: reference.to_owned() });
    };
    let sizes = std::iter::once(&manifest.config).chain(&manifest.layers);
    let total: u64 = sizes.clone().map(|d| size(d.size)).sum();
    if total > fetch.limits.image_bytes {
        return Err(Error::TooLarge { what: format!("image {reference}"), limit: fetch.limits.image_bytes });
    }
    fetch.step("download the image");
    let mut arrived = 0;
    for (blob, bytes) in blobs_of(&digest, &manifest)?.iter().skip(1).zip(sizes.map(|d| size(d.size))) {
        if !fetch.layout.has(blob) {
            pull.blob(blob, bytes, arrived, total).await?;
        }
        arrived += bytes;
    }
    Ok(digest)
}

struct Pull<'a> {
    fetch: &'a Fetch<'a>,
    client: Client,
    image: Reference,
}

impl<'a> Pull<'a> {
    fn new(fetch: &'a Fetch<'a>, image: Reference) -> Self {
        // The process may have chosen a provider before; then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = image.resolve_registry().to_owned();
        let protocol = if is_this_machine(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let client = Client::new(ClientConfig {
            protocol,
            connect_timeout: Some(fetch.limits.silence),
            user_agent: concat!("coffer/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        Self { fetch, client, image }
    }

    /// Gets a manifest, checked against the digest of its reference, and keeps it.
    async fn manifest(&self, image: &Reference) -> Result<(Digest, OciManifest)> {
        let wanted: Option<Digest> = image.digest().map(str::parse).transpose()?;
        let asked = self.client.pull_manifest_raw(image, &RegistryAuth::Anonymous, &ACCEPTED);
        let bytes = match self.in_time(asked).await? {
            Ok((bytes, _)) => bytes,
            Err(source) => return Err(self.failed(source)),
        };
        let found = Digest::of(&bytes);
        if let Some(wanted) = wanted {
            crate::layout::ensure_digest(&format!("manifest of {}", self.image), &wanted, found.clone())?;
        }
        self.fetch.layout.put(&bytes)?;
        let manifest = parse(&self.fetch.layout.blob_path(&found), &bytes)?;
        Ok((found, manifest))
    }

    async fn blob(&self, digest: &Digest, bytes: u64, before: u64, total: u64) -> Result<()> {
        let text = digest.to_string();
        let asked = self.client.pull_blob_stream(&self.image, text.as_str());
        let mut stream = match self.in_time(asked).await? {
            Ok(sized) => sized.stream,
            Err(source) => return Err(self.failed(source)),
        };
        let mut blob = self.fetch.layout.new_blob()?;
        let mut arrived = 0;
        while let Some(chunk) = self.in_time(stream.next()).await? {
            // The library's own check of the digest comes as an error too; the blob's check says it better.
            let Ok(chunk) = chunk else { break };
            arrived += chunk.len() as u64;
            if arrived > bytes {
                break;
            }
            blob.write_all(&chunk)?;
            (self.fetch.observer)(Progress::Downloaded { bytes: before + arrived, total });
        }
        if arrived < bytes {
            return Err(Error::Truncated { what: format!("blob {digest}"), found: arrived, expected: bytes });
        }
        let digest = digest.clone();
        blocking(move || blob.finish(Some(&digest))).await?;
        Ok(())
    }

    /// Waits for the registry no longer than the limit of silence.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let silence: Duration = self.fetch.limits.silence;
        tokio::time::timeout(silence, answer).await.map_err(|_| Error::Silent {
            registry: self.image.resolve_registry().to_owned(),
            seconds: silence.as_secs(),
        })
    }

    fn failed(&self, source: OciDistributionError) -> Error {
        if let OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) = &source
            && let (Ok(expected), Ok(found)) = (expected.parse(), actual.parse())
        {
            return Error::DigestMismatch { what: format!("image {}", self.image), expected, found };
        }
        Error::Registry { image: self.image.to_string(), source: Box::new(source) }
    }
}

/// Whether `host[:port]` is a loop-back address, where nobody can listen in.
fn is_this_machine(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn size(claimed: i64) -> u64 {
    u64::try_from(claimed).unwrap_or(0)
}
