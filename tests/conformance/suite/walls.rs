//! What stands around every machine, read from /proc while it lives.

use crate::host;
use crate::rig::conform;
use crate::vm::Vm;

const NAMESPACES: [&str; 6] = ["pid", "mnt", "net", "ipc", "uts", "cgroup"];

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_walls"]
fn case_02_every_thread_of_a_vmm_has_its_own_user_and_no_privilege() {
    conform(async |rig| {
        let (one, other) = rig.neighbours().await;
        assert_ne!(one.confinement.uid, other.confinement.uid);
        for vm in [&one, &other] {
            for status in statuses_of_threads(vm) {
                let uid = vm.confinement.uid.to_string();
                for kind in ["Uid", "Gid"] {
                    assert!(status[kind].split_ascii_whitespace().all(|id| id == uid), "{kind}: {}", status[kind]);
                }
                assert!(["", uid.as_str()].contains(&status["Groups"].as_str()), "Groups: {}", status["Groups"]);
                for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                    assert_eq!(u64::from_str_radix(&status[kind], 16), Ok(0), "{kind}");
                }
                assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
            }
        }
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_walls"]
fn case_02_every_vmm_has_namespaces_of_its_own() {
    conform(async |rig| {
        let (one, other) = rig.neighbours().await;
        let own = i32::try_from(std::process::id()).expect("a pid");
        for kind in NAMESPACES {
            let seen = [own, one.pid(), other.pid()].map(|pid| host::namespace(pid, kind).expect("a namespace"));
            assert!(seen[1] != seen[0] && seen[2] != seen[0], "{kind} is the server's");
            assert_ne!(seen[1], seen[2], "{kind} is shared with the neighbour");
        }
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_walls"]
fn case_02_every_vmm_sees_a_root_of_its_own_and_is_in_a_control_group_of_its_own() {
    conform(async |rig| {
        let (one, other) = rig.neighbours().await;
        for vm in [&one, &other] {
            for host_path in ["etc/shadow", "root", "home", "var/lib", "sys/fs/cgroup"] {
                let seen = format!("/proc/{}/root/{host_path}", vm.pid());
                assert!(!std::path::Path::new(&seen).exists(), "/{host_path} is visible");
            }
        }
        let groups = [&one, &other].map(groups_of);
        for (vm, groups) in [&one, &other].iter().zip(&groups) {
            assert!(groups.iter().any(|group| group.contains(&vm.confinement.name)), "{groups:?}");
        }
        assert!(groups[0].iter().all(|group| !groups[1].contains(group)), "{groups:?}");
    });
}

fn statuses_of_threads(vm: &Vm) -> Vec<std::collections::HashMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", vm.pid())).expect("it lives").flatten();
    let found: Vec<_> = tasks.filter_map(|task| host::status(&task.path().to_string_lossy())).collect();
    assert!(!found.is_empty());
    found
}

/// Its control groups, as far as they are this product's.
fn groups_of(vm: &Vm) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", vm.pid())).expect("it lives");
    text.lines().filter(|line| line.contains("leapbox")).map(str::to_owned).collect()
}
