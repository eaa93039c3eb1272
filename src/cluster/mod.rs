//! wharf in a Kubernetes cluster: local volumes of many nodes behind one controller.
//!
//! The controller writes objects, the agent on each node makes them true with the same [`crate::service`] that serves
//! a single machine. The objects carry wishes and answers; the truth about data stays on the nodes' disks.
//! Only this module knows Kubernetes.

pub mod agent;
pub mod api;
pub mod client;
pub mod controller;
pub mod crds;
mod events;
mod quiet;
mod translate;
