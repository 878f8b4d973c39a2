//! Who is a user id, and in which groups? The system's account database (getpwuid_r, getgrnam_r, getgrouplist).
#![allow(unsafe_code)]

use model::limits::{ACCOUNT_ENTRY_BYTES_MAX, ACCOUNT_GROUPS_MAX};
use std::ffi::{CStr, CString};

/// The group's id, if there is such a group.
pub fn group_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    with_buffer(|buffer| {
        // SAFETY: zeros are a valid group: null pointers and integers.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is live for the call, and the length is the buffer's.
        let code = unsafe {
            libc::getgrnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        (code, (!found.is_null()).then_some(entry.gr_gid))
    })
}

/// The ids of every group that the account is in; empty when there is no such account.
pub fn groups_of(uid: u32) -> Vec<u32> {
    let Some((name, primary)) = account(uid) else {
        return Vec::new();
    };
    let listed = grown(|groups| {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: `name` is zero-terminated; `groups` has room for `count` ids.
        let done = unsafe { libc::getgrouplist(name.as_ptr(), primary, groups.as_mut_ptr(), &raw mut count) };
        (done >= 0, usize::try_from(count).unwrap_or(0))
    });
    listed.unwrap_or_else(|wanted| {
        if wanted > ACCOUNT_GROUPS_MAX {
            tracing::warn!(uid, wanted, "an account with too many groups: it is treated as being in none");
        }
        Vec::new()
    })
}

/// Asks with more room while there is too little; `ask` says whether it fitted, and how many there are. An error is how many
/// there would be.
fn grown(mut ask: impl FnMut(&mut [libc::gid_t]) -> (bool, usize)) -> Result<Vec<u32>, usize> {
    let mut groups = vec![0; 64];
    // Two rounds are enough unless the database changes in between; then there are none, which denies.
    for _ in 0..4 {
        let (fitted, wanted) = ask(&mut groups);
        if fitted {
            groups.truncate(wanted);
            return Ok(groups);
        }
        if wanted > ACCOUNT_GROUPS_MAX {
            return Err(wanted);
        }
        groups.resize(wanted.max(groups.len().saturating_mul(2)).min(ACCOUNT_GROUPS_MAX), 0);
    }
    Err(0)
}

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// The user of this name, if there is one.
pub fn user(name: &str) -> Option<Account> {
    let name = CString::new(name).ok()?;
    with_buffer(|buffer| {
        // SAFETY: zeros are a valid passwd: null pointers and integers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is live for the call, and the length is the buffer's.
        let code = unsafe {
            libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        (code, (!found.is_null()).then_some(Account { uid: entry.pw_uid, gid: entry.pw_gid }))
    })
}

/// Name and primary group.
fn account(uid: u32) -> Option<(CString, u32)> {
    with_buffer(|buffer| {
        // SAFETY: zeros are a valid passwd: null pointers and integers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is live for the call, and the length is the buffer's.
        let code = unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        if code != 0 || found.is_null() || entry.pw_name.is_null() {
            return (code, None);
        }
        // SAFETY: getpwuid_r left a zero-terminated name inside `buffer`, which is still borrowed.
        let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
        (code, Some((name, entry.pw_gid)))
    })
}

/// Calls with a larger buffer while the answer is ERANGE.
fn with_buffer<T>(mut call: impl FnMut(&mut [libc::c_char]) -> (i32, Option<T>)) -> Option<T> {
    let mut bytes = 4_096;
    while bytes <= ACCOUNT_ENTRY_BYTES_MAX {
        match call(&mut vec![0; bytes]) {
            (libc::ERANGE, _) => bytes = bytes.saturating_mul(4),
            (_, answer) => return answer,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_in_its_group_and_strangers_are_in_none() {
        assert_eq!(group_id("root"), Some(0));
        assert!(groups_of(0).contains(&0));
        assert_eq!(group_id("no-such-group-here"), None);
        assert_eq!(group_id("a\0b"), None);
        assert_eq!(user("root"), Some(Account { uid: 0, gid: 0 }));
        assert_eq!((user("no-such-user-here"), user("a\0b")), (None, None));
        assert!(groups_of(3_999_999_999).is_empty());
    }

    #[test]
    fn who_is_in_too_many_groups_is_in_none() {
        let account = |count: usize| {
            grown(|room| {
                let fits = room.len() >= count;
                room.iter_mut().take(count).enumerate().for_each(|(n, id)| *id = u32::try_from(n).expect("small"));
                (fits, count)
            })
        };
        assert_eq!(account(ACCOUNT_GROUPS_MAX).expect("all of them").len(), ACCOUNT_GROUPS_MAX);
        assert_eq!(account(ACCOUNT_GROUPS_MAX + 1), Err(ACCOUNT_GROUPS_MAX + 1));
    }

    #[test]
    fn an_entry_is_read_up_to_its_bound() {
        let entry = |bytes: usize| {
            with_buffer(|buffer| if buffer.len() < bytes { (libc::ERANGE, None) } else { (0, Some(buffer.len())) })
        };
        assert_eq!(entry(ACCOUNT_ENTRY_BYTES_MAX), Some(ACCOUNT_ENTRY_BYTES_MAX));
        assert_eq!(entry(ACCOUNT_ENTRY_BYTES_MAX + 1), None);
        assert_eq!(entry(100), Some(4_096));
    }

    #[test]
    fn agrees_with_id() {
        let output = std::process::Command::new("id").args(["-G", "root"]).output().expect("id runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut expected: Vec<u32> = text.split_whitespace().map(|id| id.parse().expect("number")).collect();
        let mut ours = groups_of(0);
        expected.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, expected);
    }
}
