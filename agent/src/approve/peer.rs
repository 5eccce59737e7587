//! The kernel's word on who is at the other end of the control socket -> somebody who may decide.

use std::ffi::CString;
use std::sync::Arc;

use agent_core::approval::{Actor, Power};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// The login user that the kernel says where there is none.
const NO_LOGIN: u32 = u32::MAX;

/// Looks a process's user up, and his groups. May ask a directory service: call it where waiting is fine.
pub(super) fn actor(uid: u32, gid: u32, pid: Option<i32>) -> Actor {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    // What he belongs to, not what his process runs as: a program may lend its group to everybody.
    let groups = known.as_ref().map_or_else(|| names(&[Gid::from_raw(gid)]), groups);
    let user = known.map_or_else(|| uid.to_string(), |known| known.name);
    let power = if uid == 0 { Power::All } else { Power::MemberOf(groups) };
    // Behind `sudo` the login user is who it really is.
    let login = pid.and_then(login).filter(|login| *login != uid).map(|login| {
        let known = User::from_uid(Uid::from_raw(login)).ok().flatten();
        known.map_or_else(|| login.to_string(), |known| known.name)
    });
    let behind = login.map_or_else(String::new, |login| format!(", login {login}"));
    Actor { name: format!("user:{user} (uid {uid}{behind})").into(), user: user.into(), power }
}

fn groups(user: &User) -> Vec<Arc<str>> {
    let all = CString::new(&*user.name).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    names(&all.unwrap_or_else(|| vec![user.gid]))
}

/// False where this host is sure that it has no such group.
pub(super) fn may_be_group(name: &str) -> bool {
    !matches!(Group::from_name(name), Ok(None))
}

fn names(groups: &[Gid]) -> Vec<Arc<str>> {
    groups.iter().filter_map(|gid| Some(Group::from_gid(*gid).ok()??.name.into())).collect()
}

fn login(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|login| *login != NO_LOGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_may_everything_and_others_what_their_groups_may() {
        let root = actor(0, 0, None);
        assert_eq!((&*root.name, &*root.user, root.power), ("user:root (uid 0)", "root", Power::All));
        // Debian's `daemon` has a group of its own name.
        let daemon = actor(1, 0, None);
        let Power::MemberOf(groups) = &daemon.power else { panic!() };
        assert!(groups.iter().any(|group| &**group == "daemon"), "{daemon:?}");
        assert!(groups.iter().all(|group| &**group != "root"), "{daemon:?}");
        assert!(may_be_group("daemon") && !may_be_group("no-such-group"));
        let unknown = actor(4_000_000_000, 4_000_000_000, Some(i32::MAX));
        assert_eq!(&*unknown.name, "user:4000000000 (uid 4000000000)");
        assert_eq!(unknown.power, Power::MemberOf(Vec::new()));
    }
}
