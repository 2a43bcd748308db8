//! Images that somebody brought: an OCI layout, or an archive of a layout or of a root directory.

use std::path::Path;

use fs_err as fs;

use super::Fetch;
use crate::command::blocking;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::unpack::{Rule, Unpacker};

/// Copies the image of the layout in `path`.
pub(super) async fn copy(fetch: &Fetch<'_>, path: &Path, digest: Option<&Digest>) -> Result<Digest> {
    fetch.step("copy the image");
    let from = Layout::existing(path)?;
    let (to, digest) = (fetch.layout.clone(), digest.cloned());
    blocking(move || to.copy_image(&from, &from.only_image(digest.as_ref())?)).await
}

/// Unpacks the archive and takes what it turns out to be.
pub(super) async fn unpack(fetch: &Fetch<'_>, path: &Path, digest: Option<&Digest>) -> Result<Digest> {
    fetch.step("unpack the archive");
    let tree = fetch.stage.join("archive");
    let (archive, to, limit) = (path.to_owned(), tree.clone(), fetch.limits.image_bytes);
    blocking(move || {
        fs::create_dir(&to)?;
        Unpacker::new(&to, Rule::Packages, limit)?.unpack(fs::File::open(archive)?)
    })
    .await?;
    if tree.join("oci-layout").is_file() {
        return copy(fetch, &tree, digest).await;
    }
    if digest.is_some() {
        return Err(Error::BadLayout {
            path: path.to_owned(),
            what: "a digest is expected, but it is an archive of a root directory".to_owned(),
        });
    }
    fetch.pack(&tree, Vec::new()).await
}
