//! What the controller may do in a member: exactly what it needs, no wildcard.

use k8s_openapi::api::rbac::v1::PolicyRule;
use meridian_api::kubefed::default_type_configs;

use crate::args::Role;

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];

/// Group and plural of the kinds that discovery reads.
const DISCOVERED: [(&str, &str); 5] = [
    ("", "nodes"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(|r| (*r).to_owned()).collect()),
        verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// The rules of a member's ClusterRole. `targets` are group and plural of the kinds that are federated now, beside
/// the default ones.
#[must_use]
pub fn rules(role: Role, allow_escalation: bool, targets: &[(String, String)]) -> Vec<PolicyRule> {
    let mut system = rule("", &["namespaces"], &["get"]);
    // Its UID is the cluster's identity.
    system.resource_names = Some(vec!["kube-system".to_owned()]);
    let mut version = rule("", &[], &["get"]);
    version.api_groups = None;
    version.resources = None;
    version.non_resource_urls = Some(vec!["/readyz".to_owned(), "/version".to_owned()]);
    let mut rules = vec![system, version];
    rules.extend(DISCOVERED.iter().map(|(group, plural)| rule(group, &[plural], &READ)));
    // The site VIPs are written into the status of Ingresses of class meridian.
    rules.push(rule("networking.k8s.io", &["ingresses/status"], &["patch"]));
    if role == Role::Discover {
        return rules;
    }
    let defaults = default_type_configs();
    let mut kinds: Vec<(String, String)> = defaults
        .iter()
        .map(|c| (c.spec.target_type.group.clone(), c.spec.target_type.plural_name.clone()))
        .chain(targets.iter().filter(|(group, _)| group != "rbac.authorization.k8s.io").cloned())
        .collect();
    if allow_escalation {
        let rbac = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];
        rules.push(rule("rbac.authorization.k8s.io", &rbac, &[&WRITE[..], &["bind", "escalate"]].concat()));
    }
    kinds.sort();
    kinds.dedup();
    rules.extend(kinds.iter().map(|(group, plural)| rule(group, &[plural], &WRITE)));
    rules
}

/// The rule of the Role by which the account may renew its own token, and nobody else's.
#[must_use]
pub fn renewal(account: &str) -> PolicyRule {
    let mut rule = rule("", &["serviceaccounts/token"], &["create"]);
    rule.resource_names = Some(vec![account.to_owned()]);
    rule
}

#[cfg(test)]
mod tests {
    use super::{renewal, rules};
    use crate::args::Role;
    use k8s_openapi::api::rbac::v1::PolicyRule;

    fn may(rules: &[PolicyRule], verb: &str, group: &str, resource: &str) -> bool {
        rules.iter().any(|r| {
            r.verbs.iter().any(|v| v == verb)
                && r.api_groups.iter().flatten().any(|g| g == group)
                && r.resources.iter().flatten().any(|x| x == resource)
                && r.resource_names.is_none()
        })
    }

    #[test]
    fn no_rule_has_a_wildcard() {
        for role in [Role::Discover, Role::Propagate] {
            for rule in rules(role, true, &[]) {
                let text = format!("{rule:?}");
                assert!(!text.contains("\"*\""), "{text}");
            }
        }
    }

    #[test]
    fn discovery_writes_nothing_but_ingress_status_and_reads_no_secret() {
        let rules = rules(Role::Discover, false, &[]);
        assert!(may(&rules, "watch", "discovery.k8s.io", "endpointslices"));
        for verb in ["create", "patch", "delete", "update"] {
            let wrong = rules.iter().find(|r| {
                r.verbs.iter().any(|v| v == verb)
                    && r.resources.iter().flatten().all(|x| x != "ingresses/status")
            });
            assert_eq!(wrong, None, "{verb}");
        }
        assert!(!may(&rules, "get", "", "secrets"));
    }

    #[test]
    fn propagation_covers_the_default_kinds_and_what_was_enabled() {
        let rules = rules(Role::Propagate, false, &[("batch".into(), "jobs".into())]);
        for (group, plural) in
            [("", "configmaps"), ("", "secrets"), ("apps", "deployments"), ("batch", "jobs")]
        {
            for verb in ["list", "watch", "create", "patch", "delete"] {
                assert!(may(&rules, verb, group, plural), "{verb} {plural}");
            }
        }
    }

    #[test]
    fn rbac_objects_need_an_explicit_word() {
        let wanted = [("rbac.authorization.k8s.io".to_owned(), "roles".to_owned())];
        assert!(!may(
            &rules(Role::Propagate, false, &wanted),
            "create",
            "rbac.authorization.k8s.io",
            "roles"
        ));
        assert!(may(&rules(Role::Propagate, true, &wanted), "create", "rbac.authorization.k8s.io", "roles"));
    }

    #[test]
    fn an_account_may_renew_its_own_token_only() {
        assert_eq!(renewal("a").resource_names, Some(vec!["a".to_owned()]));
    }
}
