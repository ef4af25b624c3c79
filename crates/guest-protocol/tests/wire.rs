//! Pins the bytes on the wire. A failure here means: raise `PROTOCOL_VERSION`, then update the bytes.

use leapbox_guest_protocol::*;

fn call(request: Request<'_>) -> String {
    let frame = encode_call(&request).expect("encodes");
    assert_eq!(decode_call(&frame[PREFIX_LEN..]).expect("decodes"), request);
    // The length and the greeting are pinned by a test of their own.
    hex::encode(&frame[PREFIX_LEN + 5..])
}

fn answer(response: Response) -> String {
    let frame = encode(&response).expect("encodes");
    assert_eq!(decode::<Response>(&frame[PREFIX_LEN..]).expect("decodes"), response);
    hex::encode(&frame[PREFIX_LEN..])
}

fn info() -> FileInfo {
    FileInfo {
        name: "n".into(),
        path: "/n".into(),
        is_dir: false,
        size: 300,
        mode: "644".into(),
        mtime: -1,
        owner: "u".into(),
        group: "g".into(),
        is_symlink: true,
        link_target: Some("t".into()),
    }
}

#[test]
fn a_call_opens_with_length_magic_and_version() {
    let frame = encode_call(&Request::Ping).expect("encodes");
    assert_eq!(hex::encode(&frame), "00000006".to_owned() + "4c504258" + "03" + "00");
}

#[test]
fn every_request_keeps_its_bytes() {
    let configure = Configure {
        hostname: "sbx".into(),
        entropy: Entropy([0xee; 64]),
        wall_clock_unix_ns: 1,
        identity: Some(Identity { machine_id: [0xaa; 16], boot_id: [0xbb; 16] }),
        env: Some(vec![("A".into(), "b".into())]),
        restored: true,
        trust: Some(Trust::Certificate("pem".into())),
    };
    let keep = Configure { identity: None, env: None, restored: false, trust: None, ..configure.clone() };
    let distrust = Configure { trust: Some(Trust::None), ..keep.clone() };
    let exec = ExecRequest {
        command: "id".into(),
        cwd: Some("/".into()),
        env: vec![("A".into(), "b".into())],
        timeout_ms: 30_000,
        output_limit: 1024,
    };
    let read = ReadFile { path: "f".into(), offset: Some(1), limit: Some(2), head: Some(3), tail: None };
    let write = WriteFile { path: "f".into(), permissions: Some(0o644), content: b"hi" };
    let list = List { path: "d".into(), recursive: true, exclude: vec!["*".into()] };
    let mkdir = Mkdir { path: "d".into(), recursive: false, permissions: None };
    let delete = Delete { path: "d".into(), recursive: true };

    assert_eq!(call(Request::Ping), "00");
    assert_eq!(call(Request::PrepareSnapshot), "01");
    let told = "02".to_owned() + "03736278" + "40" + &"ee".repeat(64) + "01";
    let (identity, env) = ("01".to_owned() + &"aa".repeat(16) + &"bb".repeat(16), "010101410162");
    assert_eq!(call(Request::Configure(configure)), format!("{told}{identity}{env}01010103{}", hex::encode(b"pem")));
    assert_eq!(call(Request::Configure(keep)), format!("{told}00000000"));
    assert_eq!(call(Request::Configure(distrust)), format!("{told}0000000100"));
    assert_eq!(call(Request::Warm), "03");
    assert_eq!(call(Request::Exec(exec)), "0402696401012f0101410162b0ea018008");
    assert_eq!(call(Request::ReadFile(read)), "05016601010102010300");
    assert_eq!(call(Request::WriteFile(write)), "06016601a403026869");
    assert_eq!(call(Request::List(list)), "0701640101012a");
    assert_eq!(call(Request::Stat { path: "s".into() }), "080173");
    assert_eq!(call(Request::Mkdir(mkdir)), "0901640000");
    assert_eq!(call(Request::Exists { path: "e".into() }), "0a0165");
    assert_eq!(call(Request::Delete(delete)), "0b016401");
    assert_eq!(call(Request::Connect { port: 8080 }), "0c903f");
    assert_eq!(call(Request::Suspend), "0d");
    assert_eq!(call(Request::Shutdown { grace_ms: 300 }), "0eac02");
    assert_eq!(call(Request::Mount), "0f");
}

#[test]
fn every_reply_keeps_its_bytes() {
    let pong = Pong { version: 1, uptime_ms: 128, phase: Phase::Configured };
    let configured = Configured {
        reseeded: true,
        wall_clock_unix_ns: 2,
        hostname: "sbx".into(),
        machine_id: [0xaa; 16],
        boot_id: [0xbb; 16],
    };
    let exec = ExecOutput {
        exit_code: -1,
        stdout: b"o".to_vec(),
        stderr: b"e".to_vec(),
        timed_out: false,
        stdout_truncated: true,
        stderr_truncated: false,
    };
    let file = "016e022f6e00ac0203363434010175016701010174";

    assert_eq!(answer(Ok(Reply::Pong(pong))), "000001800101");
    assert_eq!(answer(Ok(Reply::Done)), "0001");
    assert_eq!(
        answer(Ok(Reply::Configured(configured))),
        format!("0002010203736278{}{}", "aa".repeat(16), "bb".repeat(16))
    );
    assert_eq!(answer(Ok(Reply::Exec(exec))), "000301016f0165000100");
    assert_eq!(answer(Ok(Reply::Content(b"hi".to_vec()))), "0004026869");
    assert_eq!(answer(Ok(Reply::Entries(vec![info()]))), format!("000501{file}"));
    assert_eq!(answer(Ok(Reply::Info(info()))), format!("0006{file}"));
    assert_eq!(answer(Ok(Reply::Exists(true))), "000701");
    assert_eq!(answer(Ok(Reply::Connected)), "0008");
    assert_eq!(answer(Ok(Reply::Suspended(Suspended { frozen: true }))), "000901");
}

#[test]
fn every_phase_keeps_its_number() {
    let phases = [Phase::Unconfigured, Phase::Configured, Phase::Diskless, Phase::Suspended, Phase::Ended];
    for (number, phase) in phases.into_iter().enumerate() {
        let pong = Pong { version: 1, uptime_ms: 1, phase };
        assert_eq!(answer(Ok(Reply::Pong(pong))), format!("00000101{number:02x}"));
    }
}

#[test]
fn every_fault_keeps_its_number() {
    let kinds = [
        FaultKind::VersionMismatch,
        FaultKind::NotFound,
        FaultKind::PermissionDenied,
        FaultKind::AlreadyExists,
        FaultKind::IsADirectory,
        FaultKind::NotADirectory,
        FaultKind::DirectoryNotEmpty,
        FaultKind::InvalidInput,
        FaultKind::NoSpace,
        FaultKind::TooLarge,
        FaultKind::ConnectionRefused,
        FaultKind::Busy,
        FaultKind::Io,
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        assert_eq!(answer(Err(GuestFault::new(kind, "m"))), format!("01{number:02x}016d"));
    }
}

#[test]
fn a_call_of_another_version_is_told_apart_from_garbage() {
    let mut body = encode_call(&Request::Ping).expect("encodes")[PREFIX_LEN..].to_vec();
    body[4] = 9;
    body[5] = 0xff;
    assert!(matches!(decode_call(&body), Err(CallError::Version { theirs: 9 })));
    body[0] = b'G';
    assert!(matches!(decode_call(&body), Err(CallError::BadMagic)));
}

#[test]
fn bytes_after_the_value_are_refused() {
    let mut body = encode(&Response::Ok(Reply::Done)).expect("encodes")[PREFIX_LEN..].to_vec();
    body.push(0);
    assert!(matches!(decode::<Response>(&body), Err(FrameError::Trailing { bytes: 1 })));
}

#[test]
fn a_length_above_the_cap_is_refused_before_its_body_is_read() {
    assert!(matches!(body_len([0xff; 4], MAX_FRAME), Err(FrameError::TooLong { .. })));
    assert_eq!(body_len([0, 0, 1, 0], SMALL_FRAME).expect("is below the cap"), 256);
}

#[test]
fn a_certificate_above_its_bound_is_refused() {
    let told = |len| {
        let trust = Trust::Certificate("x".repeat(len));
        encode(&trust).expect("encodes")[PREFIX_LEN..].to_vec()
    };
    assert!(decode::<Trust>(&told(MAX_CERTIFICATE)).is_ok());
    assert!(matches!(decode::<Trust>(&told(MAX_CERTIFICATE + 1)), Err(FrameError::Decode { .. })));
}

#[test]
fn content_that_does_not_fit_in_a_frame_is_not_sent() {
    let response: Response = Ok(Reply::Content(vec![0; MAX_FRAME]));
    assert!(matches!(encode(&response), Err(FrameError::TooLong { .. })));
}

#[test]
fn entropy_environment_values_and_certificates_are_not_printed() {
    let configure = Configure {
        hostname: "sbx".into(),
        entropy: Entropy([0xee; 64]),
        wall_clock_unix_ns: 1,
        identity: None,
        env: Some(vec![("TOKEN".into(), "hunter2".into())]),
        restored: false,
        trust: Some(Trust::Certificate("MIIB".into())),
    };
    let printed = format!("{configure:?}");
    assert!(printed.contains("TOKEN") && !printed.contains("hunter2") && !printed.contains("238"));
    assert!(printed.contains("Certificate(..)") && !printed.contains("MIIB"));
}
