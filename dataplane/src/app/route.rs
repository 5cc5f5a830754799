//! Which enclave answers: our own or another member's, and who comes after one that does not answer.

use futures_util::future::BoxFuture;
use sigil_enclave_client::KeyId;
use tokio::time::Instant;

use super::{App, Asker, Audited, CreateRequest, Created, SignRequest, Signed};
use crate::access::Verb;
use crate::error::{Code, Error};
use crate::router::{Place, Plan, Step};

/// What a request brings along wherever it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Who asks, in which request: for the rules and logs of every member that it comes to.
    pub(crate) asker: &'a Asker,
    /// When its caller gives up.
    pub(crate) deadline: Instant,
}

#[cfg(test)]
impl<'a> Asked<'a> {
    /// A request that has time enough for any machine.
    pub(crate) fn of_a_test(asker: &'a Asker) -> Self {
        Self { asker, deadline: Instant::now() + std::time::Duration::from_mins(1) }
    }
}

/// Where a request has been, what came of it, and when it began.
type Begun = (Plan, Option<Result<Signed, Error>>, Instant);

/// Whether another enclave may know better. A locked DEK is never asked for elsewhere (row S14a).
fn may_go_on<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(error) if matches!(error.code, Code::EnclaveUnavailable | Code::RetryLater))
}

impl App {
    /// Signs 32 bytes where the policy says, and where that fails at another place, within the bounds of
    /// one request and the budget of all.
    pub(crate) async fn sign_anywhere(
        &self,
        asked: Asked<'_>,
        request: SignRequest,
    ) -> Result<Signed, Error> {
        let mut audited = self.audited_sign(asked.asker, &request);
        let entered = match self.guards.admission.enter_now() {
            Some(entered) => entered,
            None => Box::pin(self.guards.admission.enter()).await,
        };
        let result = match entered {
            Ok(_slot) if self.router.epoch() == 0 => {
                self.sign_admitted(&mut audited, &request).await
            }
            // State that requests without a choice need not carry.
            Ok(_slot) => Box::pin(self.sign_placed(&mut audited, &request, asked.deadline)).await,
            Err(error) => Err(error),
        };
        audited.end(&result);
        result
    }

    /// The same for a request that has its place in flight.
    pub(super) async fn sign_placed(
        &self,
        audited: &mut Audited,
        request: &SignRequest,
        deadline: Instant,
    ) -> Result<Signed, Error> {
        let started = Instant::now();
        if !self.router.is_for_own(request.key_id) {
            let begun = (Plan::default(), None, started);
            return self.go_on(audited, request, deadline, begun).await;
        }
        let result = self.sign_admitted(audited, request).await;
        self.after_own(audited, request, deadline, (result, started)).await
    }

    /// What comes after the own enclave's answer to a request that began at the given time.
    pub(super) async fn after_own(
        &self,
        audited: &mut Audited,
        request: &SignRequest,
        deadline: Instant,
        (result, started): (Result<Signed, Error>, Instant),
    ) -> Result<Signed, Error> {
        if self.is_last(request.key_id, &result) {
            return result;
        }
        let begun = (Plan::after_own(), Some(result), started);
        self.go_on(audited, request, deadline, begun).await
    }

    /// Whether the own enclave's answer is the caller's; it is counted then.
    fn is_last(&self, key_id: KeyId, result: &Result<Signed, Error>) -> bool {
        let last = !may_go_on(result) || !self.router.has_others();
        if last {
            self.router.answered_by(key_id, Place::Own);
        }
        last
    }

    /// Boxed as a whole: it is state that requests for the own enclave need not carry.
    fn go_on<'a>(
        &'a self,
        audited: &'a mut Audited,
        request: &'a SignRequest,
        deadline: Instant,
        begun: Begun,
    ) -> BoxFuture<'a, Result<Signed, Error>> {
        Box::pin(self.go_on_now(audited, request, deadline, begun))
    }

    async fn go_on_now(
        &self,
        audited: &mut Audited,
        request: &SignRequest,
        deadline: Instant,
        (mut plan, mut last, started): Begun,
    ) -> Result<Signed, Error> {
        while let Some(step) = self.router.next(request.key_id, &mut plan) {
            if last.is_some() && !self.router.may_send_again(started, &self.metrics) {
                break;
            }
            let (place, result) = match step {
                Step::Own => (Place::Own, self.sign_admitted(audited, request).await),
                Step::Member(peer) => {
                    let asked = Asked { asker: audited.asker(), deadline };
                    let result = self.router.sign_at(&peer, request, asked).await;
                    (Place::Member(peer.slot()), result)
                }
            };
            if !may_go_on(&result) {
                self.router.answered_by(request.key_id, place);
                return result;
            }
            last = Some(result);
        }
        match last {
            Some(result) => result,
            // Nobody can be asked: our own enclave's reason is the honest one.
            None => self.sign_admitted(audited, request).await,
        }
    }

    /// Makes a key where the ring places it, or here where that member cannot be asked. Once it was asked
    /// nobody else is: it may have made the key.
    pub(crate) async fn create_anywhere(
        &self,
        asked: Asked<'_>,
        request: CreateRequest,
    ) -> Result<Created, Error> {
        let mut audited = Audited::begin(&self.audit, asked.asker, Verb::Create);
        let result = self.create_placed(&mut audited, asked, request).await;
        audited.end(&result);
        result
    }

    async fn create_placed(
        &self,
        audited: &mut Audited,
        asked: Asked<'_>,
        request: CreateRequest,
    ) -> Result<Created, Error> {
        let _slot = self.guards.admission.enter().await?;
        self.check_served(&request)?;
        let key_id = Self::place_key(asked.asker, &request)?;
        if !self.router.is_for_own(key_id)
            && let Some(Step::Member(peer)) = self.router.next(key_id, &mut Plan::default())
            && let Some(made) = self.router.create_at(&peer, key_id, &request, asked).await
        {
            audited.made(key_id);
            return made;
        }
        self.create_admitted(audited, request, key_id).await
    }

    /// Makes a key that another member placed here, with the id that it chose.
    pub(crate) async fn create_arrived(
        &self,
        asker: &Asker,
        request: CreateRequest,
        key_id: KeyId,
    ) -> Result<Created, Error> {
        let mut audited = Audited::begin(&self.audit, asker, Verb::Create);
        let work = async {
            let _slot = self.guards.admission.enter().await?;
            self.check_served(&request)?;
            self.create_admitted(&mut audited, request, key_id).await
        };
        let result = work.await;
        audited.end(&result);
        result
    }
}
