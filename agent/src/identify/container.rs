//! A cgroup path -> the container that the path belongs to. Pure; the paths of `testdata/cgroup_paths.tsv` were
//! written by the runtimes named there.

use agent_core::identity::Container;

/// What a scope's or directory's prefix says about the runtime.
const PREFIXES: [(&str, &str); 9] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("nerdctl-", "containerd"),
    ("containerd-", "containerd"),
    ("lxc.payload.", "lxc"),
    ("machine-", "systemd-nspawn"),
];

/// The container of a process from the text of `/proc/PID/cgroup`: one line for each hierarchy,
/// `number:controllers:path`. The unified hierarchy (`0::`) speaks first, then the others as they stand.
pub fn of_process(cgroup: &str) -> Option<Container> {
    let path = |line: &str| line.splitn(3, ':').nth(2).and_then(of_path);
    let unified = cgroup.lines().find(|line| line.starts_with("0::"));
    unified.and_then(path).or_else(|| cgroup.lines().find_map(path))
}

/// The container of one cgroup path. Of nested containers the innermost one.
pub fn of_path(path: &str) -> Option<Container> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty() && *s != "..").collect();
    let (at, mut container) = segments.iter().enumerate().rev().find_map(|(at, segment)| {
        of_segment(segment, at.checked_sub(1).and_then(|i| segments.get(i)).copied()).map(|c| (at, c))
    })?;
    let pod = segments.get(..at).into_iter().flatten().rev().take(2).find_map(|segment| pod_uid(segment));
    // A pod in the same segment is containerd's form `POD.slice:cri-containerd:ID`.
    let own = segments.get(at).and_then(|segment| segment.split_once(':')).and_then(|(pod, _)| pod_uid(pod));
    container.pod_uid = own.or(pod).unwrap_or_default().into();
    Some(container)
}

fn of_segment(segment: &str, parent: Option<&str>) -> Option<Container> {
    let container = |id: &str, runtime: &str| Container {
        id: id.into(),
        runtime: runtime.into(),
        ..Container::default()
    };
    // `kubepods-burstable-podUID.slice:cri-containerd:ID`, or `system.slice:docker:ID`
    if let Some((rest, id)) = segment.rsplit_once(':')
        && is_id(id)
    {
        let runtime = match rest.rsplit_once(':').map_or(rest, |(_, r)| r) {
            "cri-containerd" | "nerdctl" => "containerd",
            "crio" => "cri-o",
            "libpod" => "podman",
            other => other,
        };
        return Some(container(id, runtime));
    }
    let scope = segment.strip_suffix(".scope");
    let name = scope.unwrap_or(segment);
    for (prefix, runtime) in PREFIXES {
        if let Some(id) = name.strip_prefix(prefix) {
            // `lxc.payload.NAME` and `machine-NAME.scope` are named by people. `libpod-conmon-ID` and
            // `crio-conmon-ID` hold the container's monitor, which is outside of it.
            let named = runtime == "lxc" || (runtime == "systemd-nspawn" && scope.is_some());
            if is_id(id) || (named && !id.is_empty()) {
                return Some(container(id, runtime));
            }
        }
    }
    // A directory with nothing but the id: the parent directory is all that can name the runtime.
    if is_id(name) || is_ecs(name, parent) {
        let runtime = match parent.unwrap_or_default() {
            "docker" | "actions_job" => "docker",
            "k8s.io" | "moby" | "default" => "containerd",
            "libpod_parent" => "podman",
            "crio" => "cri-o",
            _ => "",
        };
        return Some(container(name, runtime));
    }
    (parent == Some("lxc")).then(|| container(segment, "lxc"))
}

/// 64 lowercase hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Fargate: 32 hexadecimal digits, a dash, a number, under a directory named by the same task id.
fn is_ecs(name: &str, parent: Option<&str>) -> bool {
    name.split_once('-').is_some_and(|(task, number)| {
        Some(task) == parent
            && task.len() == 32
            && task.bytes().all(|b| b.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// `podUID` (cgroupfs driver) or `...-podUID_WITH_UNDERSCORES.slice` (systemd driver). Static pods have 32
/// hexadecimal digits, others a UUID.
fn pod_uid(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    let uid = if let Some((_, uid)) = name.rsplit_once("-pod") { uid } else { name.strip_prefix("pod")? };
    let uid = uid.replace('_', "-");
    let plausible = matches!(uid.len(), 32 | 36) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    plausible.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line: path, id, runtime, pod uid; `-` for empty.
    #[test]
    fn recorded_paths() {
        let mut checked = 0;
        for line in include_str!("../../testdata/cgroup_paths.tsv").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let field: Vec<&str> = line.split('\t').collect();
            let [path, id, runtime, pod] = field[..] else { panic!("four fields: {line}") };
            let found = of_path(path).unwrap_or_default();
            let show = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            assert_eq!(
                (show(&found.id), show(&found.runtime), show(&found.pod_uid)),
                (id.to_owned(), runtime.to_owned(), pod.to_owned()),
                "{path}"
            );
            checked += 1;
        }
        assert!(checked > 25, "{checked}");
    }

    #[test]
    fn hierarchies() {
        let id = "4f".repeat(32);
        let v1 = format!("9:name=systemd:/docker/{id}\n8:memory:/docker/{id}\n0::/\n");
        assert_eq!(&*of_process(&v1).unwrap().id, id);
        let v2 = format!("0::/system.slice/docker-{id}.scope\n");
        assert_eq!(&*of_process(&v2).unwrap().runtime, "docker");
        assert_eq!(of_process("0::/user.slice/user-1000.slice/session-2.scope\n"), None);
        assert_eq!(of_process("garbage\n::\n"), None);
    }
}
