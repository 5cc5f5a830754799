use super::*;

const TIME_MAX: Duration = Duration::from_secs(30);
const RENEW: Duration = Duration::from_mins(55);
const BOOT: BootId = BootId([1; 16]);
const TICK: Duration = Duration::from_millis(1);

fn queue(depth_max: usize) -> Queue {
    let mut queue = Queue::new(depth_max, TIME_MAX);
    queue.start_boot(Some(BOOT));
    queue
}

fn key(target: Target) -> JobKey {
    JobKey { keyspace: "default".into(), target }
}

fn dek(n: u8) -> JobKey {
    key(Target::Dek([n; 16]))
}

fn ask(queue: &mut Queue, key: JobKey, id: &str, reason: Reason) -> Arc<str> {
    queue.request(key, id, reason, None, Instant::now()).unwrap()
}

fn take(queue: &mut Queue) -> Option<Job> {
    match queue.take(Instant::now(), &mut |_| {}) {
        Next::Run(job) => Some(job),
        Next::Idle(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn one_job_however_many_ask_even_while_it_runs() {
    let mut queue = queue(8);
    let first = ask(&mut queue, dek(1), "a", Reason::Demand);
    assert_eq!(ask(&mut queue, dek(1), "b", Reason::Demand), first);
    let job = take(&mut queue).unwrap();
    assert_eq!(ask(&mut queue, dek(1), "c", Reason::Demand), first);
    assert!(take(&mut queue).is_none());
    queue.done(&job, Instant::now(), RENEW, false);
    assert_eq!(ask(&mut queue, dek(1), "d", Reason::Demand), first, "it also renews");
}

#[tokio::test(start_paused = true)]
async fn demanded_jobs_go_first_and_each_line_is_in_order() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "boot1", Reason::Boot);
    ask(&mut queue, dek(2), "boot2", Reason::Boot);
    ask(&mut queue, dek(3), "demand1", Reason::Demand);
    ask(&mut queue, dek(4), "demand2", Reason::Demand);
    let order: Vec<_> =
        std::iter::from_fn(|| take(&mut queue)).map(|job| job.id.to_string()).collect();
    assert_eq!(order, ["demand1", "demand2", "boot1", "boot2"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_bounded_and_full_is_said() {
    let mut queue = queue(2);
    ask(&mut queue, dek(1), "a", Reason::Demand);
    ask(&mut queue, dek(2), "b", Reason::Demand);
    let full = queue.request(dek(3), "c", Reason::Demand, None, Instant::now());
    assert_eq!(full, Err(QueueFull));
    ask(&mut queue, dek(1), "a", Reason::Demand);
    assert_eq!(queue.depth(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_job_waits_out_its_delay_and_a_caller_cannot_hurry_it() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "a", Reason::Demand);
    let job = take(&mut queue).unwrap();
    let delay = Duration::from_secs(1);
    assert_eq!(queue.failed(&job, KmsErrorClass::Denied, Instant::now(), delay), 1);
    ask(&mut queue, dek(1), "b", Reason::Demand);
    assert!(take(&mut queue).is_none());
    tokio::time::advance(delay).await;
    let again = take(&mut queue).unwrap();
    assert_eq!((&*again.id, again.rounds_failed), ("a", 1));
    assert_eq!(again.last_error, Some(KmsErrorClass::Denied));
    queue.failed(&again, KmsErrorClass::Denied, Instant::now(), delay);
    queue.retry_all(Instant::now());
    assert!(take(&mut queue).is_some(), "an operator can hurry it");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_comes_by_itself_or_early_on_demand() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "a", Reason::Boot);
    let job = take(&mut queue).unwrap();
    queue.done(&job, Instant::now(), RENEW, false);
    let asked = Instant::now();
    tokio::time::advance(RENEW / 2).await;
    queue.request(dek(1), "late", Reason::Demand, None, asked).unwrap();
    assert!(take(&mut queue).is_none(), "an answer from before the unlock starts no other");
    ask(&mut queue, dek(1), "b", Reason::Demand);
    let job = take(&mut queue).unwrap();
    queue.done(&job, Instant::now(), RENEW, false);
    tokio::time::advance(RENEW).await;
    assert_eq!(take(&mut queue).unwrap().reason, Reason::Renewal);
}

#[tokio::test(start_paused = true)]
async fn demanded_jobs_expire_and_background_ones_do_not() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "demand", Reason::Demand);
    ask(&mut queue, dek(2), "boot", Reason::Boot);
    tokio::time::advance(TIME_MAX + Duration::from_millis(1)).await;
    let mut expired = Vec::new();
    let next = queue.take(Instant::now(), &mut |job| expired.push(job.id.to_string()));
    assert!(matches!(next, Next::Run(job) if &*job.id == "boot"));
    assert_eq!(expired, ["demand"]);
}

#[tokio::test(start_paused = true)]
async fn another_boot_forgets_everything_and_old_results_change_nothing() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "a", Reason::Demand);
    let old = take(&mut queue).unwrap();
    queue.start_boot(Some(BootId([2; 16])));
    assert_eq!(queue.depth(), 0);
    ask(&mut queue, dek(1), "b", Reason::Demand);
    queue.done(&old, Instant::now(), RENEW, true);
    assert_eq!(queue.failed(&old, KmsErrorClass::Enclave, Instant::now(), TIME_MAX), 0);
    assert_eq!(&*take(&mut queue).unwrap().id, "b");
    queue.start_boot(None);
    assert!(queue.request(dek(1), "c", Reason::Demand, None, Instant::now()).is_err());
}

/// A sealing job that runs and is about to find its DEK.
fn sealing(queue: &mut Queue) -> Job {
    ask(queue, key(Target::Sealing), "seal", Reason::Boot);
    take(queue).unwrap()
}

const OWN: Claim = Claim::Own { absorbed: None };

fn joined(other: &str) -> Claim {
    Claim::Joined { other: other.into() }
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_dek_that_a_sealing_job_found_join_it_then_and_later() {
    let mut queue = queue(8);
    let seal = sealing(&mut queue);
    assert_eq!(queue.claim(&seal, [1; 16]), OWN);
    assert_eq!(queue.claim(&seal, [1; 16]), OWN, "each attempt claims");
    assert_eq!(&*ask(&mut queue, dek(1), "x", Reason::Demand), "seal");
    queue.done(&seal, Instant::now(), RENEW, true);
    assert_eq!(&*ask(&mut queue, dek(1), "late", Reason::Demand), "seal");
    assert!(take(&mut queue).is_none(), "an answer from before the unlock starts no other");
    tokio::time::advance(TICK).await;
    assert_eq!(&*ask(&mut queue, dek(1), "lost", Reason::Demand), "seal");
    assert_eq!(&*take(&mut queue).unwrap().id, "seal", "one job for a new need");
    assert_eq!(&*ask(&mut queue, dek(2), "other", Reason::Demand), "other");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_of_the_dek_becomes_part_of_the_sealing_job() {
    let mut queue = queue(8);
    let seal = sealing(&mut queue);
    let id = Some(KeyId([7; 16]));
    queue.request(dek(1), "caller", Reason::Demand, id, Instant::now()).unwrap();
    assert_eq!(queue.claim(&seal, [1; 16]), Claim::Own { absorbed: Some("caller".into()) });
    assert!(take(&mut queue).is_none(), "no second job");
    queue.failed(&seal, KmsErrorClass::Timeout, Instant::now(), Duration::ZERO);
    assert_eq!(take(&mut queue).unwrap().key_id, id, "what the caller knew is kept");
}

#[tokio::test(start_paused = true)]
async fn a_sealing_job_waits_for_a_job_that_has_its_dek_in_hand() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "caller", Reason::Demand);
    let caller = take(&mut queue).unwrap();
    let seal = sealing(&mut queue);
    assert_eq!(queue.claim(&seal, [1; 16]), joined("caller"));
    assert!(take(&mut queue).is_none());
    queue.done(&caller, Instant::now(), RENEW, true);
    assert!(take(&mut queue).is_none(), "unlocked for both");
    assert_eq!(&*ask(&mut queue, dek(1), "late", Reason::Demand), "seal");
    assert_eq!(&*ask(&mut queue, key(Target::Sealing), "late", Reason::Demand), "seal");
    assert!(take(&mut queue).is_none());
    tokio::time::advance(RENEW).await;
    assert_eq!(&*take(&mut queue).unwrap().id, "seal");
    assert!(take(&mut queue).is_none(), "one renewal of one DEK");
}

#[tokio::test(start_paused = true)]
async fn a_failure_counts_for_both_and_is_waited_out() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "caller", Reason::Demand);
    let caller = take(&mut queue).unwrap();
    let seal = sealing(&mut queue);
    queue.claim(&seal, [1; 16]);
    let delay = Duration::from_secs(1);
    assert_eq!(queue.failed(&caller, KmsErrorClass::Denied, Instant::now(), delay), 1);
    ask(&mut queue, dek(1), "x", Reason::Demand);
    ask(&mut queue, key(Target::Sealing), "y", Reason::Demand);
    assert!(take(&mut queue).is_none(), "callers cannot hurry it");
    tokio::time::advance(delay).await;
    let again = take(&mut queue).unwrap();
    assert_eq!((&*again.id, again.rounds_failed), ("seal", 1));
    assert!(take(&mut queue).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_unlock_that_does_not_seal_is_none_for_a_sealing_job() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "caller", Reason::Demand);
    let caller = take(&mut queue).unwrap();
    let seal = sealing(&mut queue);
    queue.claim(&seal, [1; 16]);
    queue.done(&caller, Instant::now(), RENEW, false);
    let again = take(&mut queue).unwrap();
    assert_eq!(&*again.id, "seal", "it was not `current` when it was unlocked");
    assert_eq!(queue.claim(&again, [1; 16]), OWN);
}

#[tokio::test(start_paused = true)]
async fn an_unlock_counts_for_who_asked_before_it_and_not_for_a_later_need() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "caller", Reason::Demand);
    let caller = take(&mut queue).unwrap();
    ask(&mut queue, key(Target::Sealing), "seal", Reason::Boot);
    queue.done(&caller, Instant::now(), RENEW, true);
    tokio::time::advance(Duration::from_secs(9)).await;
    let seal = take(&mut queue).unwrap();
    assert_eq!(queue.claim(&seal, [1; 16]), joined("caller"), "however long it waited");

    ask(&mut queue, dek(2), "caller", Reason::Demand);
    let caller = take(&mut queue).unwrap();
    queue.done(&caller, Instant::now(), RENEW, true);
    tokio::time::advance(Duration::from_secs(9)).await;
    ask(&mut queue, key(Target::Sealing), "new need", Reason::Demand);
    let seal = take(&mut queue).unwrap();
    assert_eq!(queue.claim(&seal, [2; 16]), Claim::Own { absorbed: Some("caller".into()) });
}

#[tokio::test(start_paused = true)]
async fn a_dek_that_never_opens_is_tried_ever_more_seldom_and_by_a_caller_sooner() {
    let mut queue = queue(8);
    ask(&mut queue, dek(1), "junk", Reason::Boot);
    let recovery = Duration::from_secs(1);
    for wait_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        let job = take(&mut queue).unwrap();
        queue.failed(&job, KmsErrorClass::Denied, Instant::now(), recovery);
        tokio::time::advance(Duration::from_millis(wait_s * 1_000 - 1)).await;
        assert!(take(&mut queue).is_none(), "{wait_s} s");
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let job = take(&mut queue).unwrap();
    queue.failed(&job, KmsErrorClass::Denied, Instant::now(), recovery);
    ask(&mut queue, dek(1), "caller", Reason::Demand);
    assert!(take(&mut queue).is_none(), "not at once");
    tokio::time::advance(recovery + TICK).await;
    assert_eq!(&*ask(&mut queue, dek(1), "caller", Reason::Demand), "junk");
    let job = take(&mut queue).unwrap();
    assert_eq!((job.reason, job.rounds_failed), (Reason::Boot, 12), "it will not expire");
    assert_eq!(queue.inspect(1)[0].1, "running");
    queue.failed(&job, KmsErrorClass::Denied, Instant::now(), recovery);
    assert_eq!(queue.inspect(1)[0].1, "backing_off");
    queue.retry_all(Instant::now());
    assert!(take(&mut queue).is_some(), "an operator can hurry it too");
}

#[tokio::test(start_paused = true)]
async fn rows_of_the_store_take_no_places_of_requests() {
    let mut queue = queue(2);
    let row = |n: usize| {
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        key(Target::Dek(id))
    };
    for n in 0..BACKGROUND_JOBS_MAX {
        ask(&mut queue, row(n), "junk", Reason::Boot);
    }
    let over = row(BACKGROUND_JOBS_MAX);
    let full = queue.request(over.clone(), "junk", Reason::Boot, None, Instant::now());
    assert_eq!(full, Err(QueueFull));
    ask(&mut queue, over, "caller 1", Reason::Demand);
    ask(&mut queue, dek(1), "caller 2", Reason::Demand);
    let full = queue.request(dek(2), "caller 3", Reason::Demand, None, Instant::now());
    assert_eq!(full, Err(QueueFull));
    assert_eq!(&*take(&mut queue).unwrap().id, "caller 1");
}
