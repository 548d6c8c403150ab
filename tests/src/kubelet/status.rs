//! What the fake kubelet reads from and writes to objects.

use std::net::Ipv4Addr;

use anyhow::Context;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::DEFAULT_PORT;

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(value, _)| value == "True")
}

pub(super) fn address(pod: &Pod) -> Option<Ipv4Addr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// The uid of the pod's controller.
pub(super) fn owner(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// The TCP ports that the pod's containers declare; the default port if none does.
pub(super) fn ports(pod: &Pod) -> Vec<u16> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let declared = containers.iter().flat_map(|container| container.ports.as_deref().unwrap_or_default());
    let tcp = declared.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let mut ports: Vec<u16> = tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() { vec![DEFAULT_PORT] } else { ports }
}

/// The status of a pod that runs.
pub(super) fn running(pod: &Pod, address: Ipv4Addr, host: Ipv4Addr, ready: bool) -> Value {
    let now = Timestamp::now().to_string();
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref())
        .map_or_else(|| now.clone(), |time| time.0.to_string());
    let condition = |kind: &str, value: bool| {
        let value = if value { "True" } else { "False" };
        let since = match self::condition(pod, kind) {
            Some((before, Some(since))) if before == value => since,
            _ => now.clone(),
        };
        json!({"type": kind, "status": value, "lastTransitionTime": since})
    };
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let containers: Vec<_> = containers
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image,
                "imageID": "",
                "containerID": "testbed://echo",
                "ready": ready,
                "started": true,
                "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            })
        })
        .collect();
    json!({
        "phase": "Running",
        "startTime": started,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": containers,
    })
}

/// A node's Ready condition.
pub(super) fn node_condition(ready: bool) -> Value {
    let now = Timestamp::now().to_string();
    json!({
        "type": "Ready",
        "status": if ready { "True" } else { "Unknown" },
        "reason": if ready { "KubeletReady" } else { "NodeStatusUnknown" },
        "message": "set by the testbed",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    })
}

pub(super) async fn create_node(
    client: &Client,
    name: &str,
    region: &str,
    zone: &str,
    pods: Ipv4Net,
) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let host = Ipv4Addr::from(u32::from(pods.network()) + 1);
    let node: Node = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": zone,
            },
        },
        "spec": {"podCIDR": pods, "podCIDRs": [pods], "providerID": format!("testbed://{zone}/{name}")},
    }))?;
    api.create(&Default::default(), &node).await.with_context(|| format!("creating node {name}"))?;
    let resources = json!({"cpu": "8", "memory": "32Gi", "pods": "4000", "ephemeral-storage": "100Gi"});
    let status = json!({"status": {
        "conditions": [node_condition(true)],
        "addresses": [{"type": "InternalIP", "address": host}, {"type": "Hostname", "address": name}],
        "capacity": resources,
        "allocatable": resources,
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "testbed", "kernelVersion": "testbed",
            "containerRuntimeVersion": "testbed://1", "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
            "machineID": "", "systemUUID": "", "bootID": "",
        },
    }});
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(status))
        .await
        .with_context(|| format!("the status of node {name}"))?;
    Ok(())
}

/// A condition's status and since when it has it.
fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Option<String>)> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.as_str(), found.last_transition_time.as_ref().map(|time| time.0.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pod_without_declared_ports_listens_on_the_default() {
        let declared = pod(json!({"spec": {"containers": [{"name": "a", "ports": [
            {"containerPort": 81}, {"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}]}}));
        assert_eq!(ports(&declared), [80, 81]);
        assert_eq!(ports(&pod(json!({"spec": {"containers": [{"name": "a"}]}}))), [DEFAULT_PORT]);
    }

    #[test]
    fn transition_time_moves_only_with_the_condition() {
        let since = "2001-01-01T00:00:00Z";
        let was = pod(json!({"spec": {"containers": []}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": since},
            {"type": "ContainersReady", "status": "True", "lastTransitionTime": since}]}}));
        let host = Ipv4Addr::LOCALHOST;
        let same = running(&was, host, host, true);
        assert_eq!(same["conditions"][3]["lastTransitionTime"], since);
        let flipped = running(&was, host, host, false);
        assert_eq!(flipped["conditions"][3]["status"], "False");
        assert_ne!(flipped["conditions"][3]["lastTransitionTime"], since);
    }
}
