//! Lists over all known shares, page by page.
//!
//! Shares come in the order of a hash of their names, so that one that becomes known between two pages moves
//! nothing else.

use super::{At, OnShare, Shares, SnapshotOnShare, create::check_capability};
use crate::{
    error::{Error, Result},
    service::{Snapshot, ValidateVolume, Volume},
    share::{
        Share,
        store::{Page, SnapshotRecord, VolumeRecord},
    },
    volume::{
        Key,
        nfs::{self, Class, Context},
    },
};
use uuid::Uuid;

/// How many records are fetched at a time.
pub(super) const CHUNK: usize = 500;

/// Before every token of a list that has reached the shares.
const TOKEN: &str = "share-";

/// Where a list over shares goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::service) struct Position {
    share: Uuid,
    after: Option<Key>,
}

impl Position {
    /// Before everything.
    pub(in crate::service) const START: Self = Self { share: Uuid::nil(), after: None };

    /// `None`: no token of a list over shares.
    pub(in crate::service) fn parse(token: &str) -> Option<Self> {
        let (share, after) = token.strip_prefix(TOKEN)?.split_once('-')?;
        let share = Uuid::try_parse(share).ok()?;
        let after = match after {
            "" => None,
            key => Some(Key::parse(key)?),
        };
        let position = Self { share, after };
        (position.token() == token).then_some(position)
    }

    /// What `parse` reads.
    pub(in crate::service) fn token(self) -> String {
        let after = self.after.map_or_else(String::new, |key| key.to_string());
        format!("{TOKEN}{}-{after}", self.share.simple())
    }
}

/// A part of a list, and where the next one begins.
pub(in crate::service) type Part<T> = (Vec<T>, Option<Position>);

impl Shares {
    /// At most so many volumes of this driver's.
    pub(in crate::service) fn volumes(&self, from: Position, most: usize) -> Result<Part<Volume>> {
        let fetch = |share: &Share, after| self.remote.volumes(share, after, CHUNK);
        self.part(from, most, fetch, |_, record: VolumeRecord| Some((record.key, record.into())))
    }

    /// At most so many snapshots of this driver's, of one volume or of all.
    pub(in crate::service) fn snapshots(
        &self,
        from: Position,
        most: usize,
        source: Option<Key>,
    ) -> Result<Part<Snapshot>> {
        let fetch = |share: &Share, after| self.remote.snapshots(share, after, CHUNK);
        self.part(from, most, fetch, |_, record: SnapshotRecord| {
            let wanted = source.is_none_or(|source| record.volume == source);
            wanted.then(|| (record.key, record.into()))
        })
    }

    /// The one with this id, if it is there and of that volume.
    pub(in crate::service) fn snapshot_of(
        &self,
        id: &SnapshotOnShare,
        source_id: &str,
    ) -> Result<Option<Snapshot>> {
        let SnapshotOnShare::Snapshot(id) = id else { return Ok(None) };
        let record = self.snapshot_record(id)?;
        let wanted = |record: &SnapshotRecord| source_id.is_empty() || record.volume_id == source_id;
        Ok(record.filter(wanted).map(Snapshot::from))
    }

    pub(super) fn part<R, T>(
        &self,
        from: Position,
        most: usize,
        fetch: impl Fn(&Share, Option<Key>) -> Result<Page<R>>,
        wanted: impl Fn(&Share, R) -> Option<(Key, T)>,
    ) -> Result<Part<T>> {
        let (mut entries, mut last) = (Vec::new(), from);
        // Each share of a server that is silent would be waited for anew.
        let mut silent = Vec::new();
        for (hash, at) in self.in_order(from.share) {
            if silent.contains(&at.share.server) {
                tracing::warn!(share = %at, "left out of a list: its server has just given no answer");
                continue;
            }
            let share = self.uses(&at);
            let mut after = from.after.filter(|_| hash == from.share);
            loop {
                let page = match fetch(&share, after) {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(share = %at, error = error.chain(), "left out of a list");
                        silent
                            .extend(matches!(error, Error::Unavailable(_)).then(|| at.share.server.clone()));
                        break;
                    }
                };
                for (key, why) in &page.damaged {
                    tracing::warn!(share = %at, %key, error = why, "left out of a list");
                }
                for (key, entry) in page.entries.into_iter().filter_map(|entry| wanted(&share, entry)) {
                    if entries.len() == most {
                        return Ok((entries, Some(last)));
                    }
                    entries.push(entry);
                    last = Position { share: hash, after: Some(key) };
                }
                match page.after {
                    Some(_) => after = page.after,
                    None => break,
                }
            }
        }
        Ok((entries, None))
    }

    fn in_order(&self, from: Uuid) -> Vec<(Uuid, At)> {
        let hash = |at: &At| Uuid::new_v5(&Uuid::NAMESPACE_URL, at.to_string().as_bytes());
        let mut all: Vec<_> = self.known.all().into_iter().map(|at| (hash(&at), at)).collect();
        all.retain(|(hash, _)| *hash >= from);
        all.sort_by_key(|(hash, _)| *hash);
        all
    }

    /// One volume that must exist.
    pub(in crate::service) fn volume(&self, id: &OnShare) -> Result<Volume> {
        match id {
            OnShare::Volume(id) => self.known_volume(id).map(|(_, record)| record.into()),
            OnShare::Legacy(id) => Err(super::unknown(id)),
        }
    }

    /// `Ok(None)`: everything asked about is so; else the reason why not.
    pub(in crate::service) fn validate(
        &self,
        id: &OnShare,
        request: &ValidateVolume,
    ) -> Result<Option<String>> {
        let volume = self.volume(id)?;
        Ok(objection(&volume, request).err().map(|error| error.to_string()))
    }
}

fn objection(volume: &Volume, request: &ValidateVolume) -> Result<()> {
    if !request.mutable_parameters.is_empty() {
        return Err(Error::Invalid("no parameter of a volume can be modified".into()));
    }
    request.capabilities.iter().try_for_each(check_capability)?;
    let own = Context::parse(&volume.context)?;
    if !request.context.is_empty() {
        let asked = Context::parse(&request.context)?;
        if (&asked.share, &asked.directory) != (&own.share, &own.directory) {
            return Err(Error::Invalid("volume_context is not of this volume".into()));
        }
    }
    if !request.parameters.is_empty() {
        let class = match nfs::is_nfs(&request.parameters) {
            true => Class::parse(&request.parameters)?,
            false => {
                return Err(Error::Invalid("the volume was made by a class with server and share".into()));
            }
        };
        if class.share != own.share {
            return Err(Error::Invalid(format!("the volume lies on {}, not on {}", own.share, class.share)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_say_where_a_list_goes_on() {
        let key = Key::from_uuid(Uuid::from_u128(7));
        for position in [
            Position::START,
            Position { share: Uuid::from_u128(5), after: None },
            Position { share: Uuid::from_u128(5), after: Some(key) },
        ] {
            assert_eq!(Position::parse(&position.token()), Some(position));
        }
        for bad in ["", "after-x", "share-", "share-5-", "share-00000000000000000000000000000005", "share--"]
        {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
