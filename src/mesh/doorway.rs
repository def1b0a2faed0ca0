//! A bounded doorway: at most so many inbound connections agree on encryption at a time.
//!
//! Whoever connects and says nothing keeps a place only until others need it: the address with most waiting
//! connections loses its oldest one. So half-open strangers delay nobody, however many there are.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{
    TryFutureExt,
    future::{AbortHandle, Abortable, Aborted, BoxFuture, FutureExt},
};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};

use super::{counters, counters::Counters, locator};

/// Places for inbound connections without encryption, and as many again for those with it but without admission.
pub(super) const PLACES: usize = 32;

/// Of those who wait, oldest first, the one to go: the oldest of the address that has most.
pub(super) fn most_crowding<K: Copy>(waiting: impl Iterator<Item = (K, Option<IpAddr>)>) -> Option<K> {
    let mut by_address = BTreeMap::<Option<IpAddr>, (usize, K)>::new();
    for (key, address) in waiting {
        by_address.entry(address).and_modify(|(count, _)| *count += 1).or_insert((1, key));
    }
    by_address.into_values().max_by_key(|(count, _)| *count).map(|(_, oldest)| oldest)
}

#[derive(Default)]
struct Waiting {
    next: u64,
    places: BTreeMap<u64, (Option<IpAddr>, AbortHandle)>,
}

/// A transport whose inbound upgrades are bounded by [`PLACES`].
pub(super) struct Doorway<T> {
    inner: T,
    waiting: Arc<Mutex<Waiting>>,
    counters: Arc<Mutex<Counters>>,
}

impl<T> Doorway<T> {
    pub(super) fn new(inner: T, counters: Arc<Mutex<Counters>>) -> Self {
        Self { inner, waiting: Arc::default(), counters }
    }
}

/// Gives the place back when the upgrade is done or dropped.
struct Place {
    number: u64,
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).places.remove(&self.number);
    }
}

/// Why an inbound connection did not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorwayError<E> {
    #[error(transparent)]
    Inner(#[from] E),
    #[error("others needed the place")]
    Crowded,
}

impl<T> Transport for Doorway<T>
where
    T: Transport + Unpin,
    T::ListenerUpgrade: Send + 'static,
    T::Dial: Send + 'static,
    T::Output: 'static,
    T::Error: Send + 'static,
{
    type Output = T::Output;
    type Error = DoorwayError<T::Error>;
    type ListenerUpgrade = BoxFuture<'static, Result<T::Output, Self::Error>>;
    type Dial = BoxFuture<'static, Result<T::Output, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address).map_err(|error| error.map(DoorwayError::Inner))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let dial = self.inner.dial(address, opts).map_err(|error| error.map(DoorwayError::Inner))?;
        Ok(dial.map_err(DoorwayError::Inner).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = futures::ready!(Pin::new(&mut self.inner).poll(cx)).map_err(DoorwayError::Inner);
        let from = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => {
                locator::socket_address(send_back_addr).map(|address| address.ip())
            }
            TransportEvent::NewAddress { .. }
            | TransportEvent::AddressExpired { .. }
            | TransportEvent::ListenerClosed { .. }
            | TransportEvent::ListenerError { .. } => None,
        };
        Poll::Ready(event.map_upgrade(|upgrade| {
            let (abort, registration) = AbortHandle::new_pair();
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.places.len() >= PLACES {
                let all = waiting.places.iter().map(|(number, (address, _))| (*number, *address));
                if let Some((_, abort)) = most_crowding(all).and_then(|number| waiting.places.remove(&number))
                {
                    abort.abort();
                    counters::lock(&self.counters).crowded_out += 1;
                }
            }
            let number = waiting.next;
            waiting.next += 1;
            waiting.places.insert(number, (from, abort));
            drop(waiting);
            let place = Place { number, waiting: self.waiting.clone() };
            async move {
                let done = Abortable::new(upgrade, registration).await;
                drop(place);
                match done {
                    Ok(done) => done.map_err(DoorwayError::Inner),
                    Err(Aborted) => Err(DoorwayError::Crowded),
                }
            }
            .boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::most_crowding;

    #[test]
    fn the_oldest_of_the_busiest_address_gives_way() {
        let (a, b) = ("192.0.2.1".parse().ok(), "192.0.2.2".parse().ok());
        let waiting = [(1, a), (2, b), (3, b), (4, a), (5, b)];
        assert_eq!(most_crowding(waiting.into_iter()), Some(2));
        assert_eq!(most_crowding(std::iter::empty::<(u8, _)>()), None);
    }
}
