//! The order in which kernel modules are loaded: a module comes after those that it depends on.
//!
//! The dependencies are read from the index that `depmod` has written for exactly this kernel, because they change
//! between point releases: in 6.1.192 virtio and virtio_ring swapped sides.

use crate::error::ArtifactError;
use leapbox_errors::FileError;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Returns the paths below `dir` of the wanted modules and of all that they depend on, in the order of loading.
///
/// # Errors
/// [`ArtifactError::ModuleMissing`] for a wanted module that is neither a file nor built in.
pub(super) fn in_load_order(kernel: &str, dir: &Path, wanted: &[&str]) -> Result<Vec<String>, ArtifactError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(FileError::of("reading the kernel's module index", &path))
    };
    let index = Index::parse(&read("modules.dep")?, &read("modules.softdep")?, &read("modules.builtin")?);
    index.order(wanted).map_err(|Missing { module }| ArtifactError::ModuleMissing { kernel: kernel.to_owned(), module })
}

/// The name of a module from its path: `kernel/drivers/char/hw_random/virtio-rng.ko` → `virtio_rng`.
fn name_of(path: &str) -> String {
    // Dash and underscore are the same to the kernel, and the files of the index mix them.
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[derive(Debug, Default)]
struct Index {
    paths: HashMap<String, String>,
    needs: HashMap<String, Vec<String>>,
    builtin: HashSet<String>,
}

/// A module that the kernel has neither built in nor as a file.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    module: String,
}

impl Index {
    fn parse(dep: &str, softdep: &str, builtin: &str) -> Self {
        let mut index = Index { builtin: builtin.lines().map(name_of).collect(), ..Index::default() };
        for (path, needs) in dep.lines().filter_map(|l| l.split_once(':')) {
            index.paths.insert(name_of(path), path.to_owned());
            index.needs.insert(name_of(path), needs.split_whitespace().map(name_of).collect());
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            // Soft dependencies marked `pre:` come first as well, if they exist: by modprobe.d(5) they are optional.
            let before = words.skip_while(|w| *w != "pre:").skip(1).take_while(|w| !w.ends_with(':'));
            let before: Vec<_> = before.map(name_of).filter(|m| index.paths.contains_key(m)).collect();
            index.needs.entry(name_of(module)).or_default().extend(before);
        }
        index
    }

    fn order(&self, wanted: &[&str]) -> Result<Vec<String>, Missing> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        for module in wanted {
            self.visit(module, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Adds a module to `order`, after those that it depends on.
    fn visit(&self, module: &str, seen: &mut HashSet<String>, order: &mut Vec<String>) -> Result<(), Missing> {
        // Marked before its dependencies are visited, which also ends a circle. Only soft dependencies can form one.
        if !seen.insert(module.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.paths.get(module) else {
            return if self.builtin.contains(module) { Ok(()) } else { Err(Missing { module: module.to_owned() }) };
        };
        for need in self.needs.get(module).into_iter().flatten() {
            self.visit(need, seen, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "k/virtio/virtio_mmio.ko: k/virtio/virtio_ring.ko k/virtio/virtio.ko\n\
                       k/virtio/virtio_ring.ko: k/virtio/virtio.ko\n\
                       k/virtio/virtio.ko:\n\
                       k/char/virtio-rng.ko: k/virtio/virtio.ko\n\
                       k/fs/erofs.ko: k/lib/libcrc32c.ko\nk/lib/libcrc32c.ko:\nk/crypto/crc32c.ko:\n";
    const SOFT: &str = "# comment\nsoftdep libcrc32c pre: crc32c missing post: virtio\n";

    fn names(wanted: &[&str]) -> Result<Vec<String>, Missing> {
        let order = Index::parse(DEP, SOFT, "kernel/fs/ext4/ext4.ko\n").order(wanted)?;
        Ok(order.iter().map(|p| name_of(p)).collect())
    }

    #[test]
    fn what_a_module_depends_on_is_loaded_before_it_and_once() {
        let order = names(&["virtio_mmio", "virtio_rng"]).expect("an order");
        assert_eq!(order, ["virtio", "virtio_ring", "virtio_mmio", "virtio_rng"]);
    }

    #[test]
    fn soft_dependencies_that_exist_come_first_too() {
        assert_eq!(names(&["erofs"]).expect("an order"), ["crc32c", "libcrc32c", "erofs"]);
    }

    #[test]
    fn a_built_in_module_is_skipped_and_an_unknown_one_is_named() {
        assert_eq!(names(&["ext4"]).expect("an order"), Vec::<String>::new());
        assert_eq!(names(&["nope"]), Err(Missing { module: "nope".to_owned() }));
    }
}
