//! Good documents, damaged as editors, terminals and transports damage them. Whatever happens, the loader does not break,
//! and nothing that it takes is more open than the document was, unless it says so.
//!
//! The oracle is the meaning: what a damaged document allows is asked of the compiled artefact, flow by flow, and compared
//! with what the whole one allows. `PENSTOCK_SEED` replays the random part.

use penstock_api::Artefact;
use penstock_api::reference::{Question, judge_flow};
use penstock_control::compile::Compiler;
use penstock_control::load::{FileReport, load_text};
use penstock_control::objects::{Kind, Object};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::net::IpAddr;
use std::path::Path;

const DOCUMENTS: &[&str] = &[
    "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: shop
  labels:
    of: us
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  - Egress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: db
      namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: shop
    - ipBlock:
        cidr: 10.0.0.0/8
        except:
        - 10.1.0.0/16
    ports:
    - port: 80
      protocol: TCP
    - port: 53
      protocol: UDP
  egress:
  - to:
    - podSelector:
        matchExpressions:
        - key: app
          operator: In
          values:
          - db
    ports:
    - port: 443
      endPort: 445
",
    "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Egress
  egress:
  - to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
    ports:
    - protocol: UDP
      port: 53
",
    "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: p
  namespace: shop
spec:
  description: what it is for
  endpointSelector:
    matchLabels:
      app: web
  ingress:
  - fromEndpoints:
    - matchLabels:
        k8s:io.kubernetes.pod.namespace: shop
        app: db
    toPorts:
    - ports:
      - port: \"80\"
        protocol: TCP
  ingressDeny:
  - fromCIDRSet:
    - cidr: 10.0.0.0/8
      except:
      - 10.1.0.0/16
  egress:
  - toEntities:
    - cluster
    toPorts:
    - ports:
      - port: \"53\"
        protocol: ANY
  - toCIDR:
    - 10.2.0.0/16
    icmps:
    - fields:
      - type: 8
        family: IPv4
",
    "apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: p
specs:
- endpointSelector:
    matchExpressions:
    - key: app
      operator: In
      values:
      - web
      - db
  enableDefaultDeny:
    ingress: true
    egress: true
  ingress:
  - fromEndpoints:
    - matchLabels:
        app: db
  egressDeny:
  - toEntities:
    - world
    toPorts:
    - ports:
      - port: \"80\"
        endPort: 90
        protocol: TCP
- endpointSelector: {}
  egress:
  - {}
",
];

const PODS: &[(&str, &str, &str, &str)] = &[
    ("shop", "web", "app: web", "172.16.0.1"),
    ("shop", "db", "app: db", "172.16.0.2"),
    ("shop", "none", "", "172.16.0.3"),
    ("default", "web", "app: web", "172.16.0.4"),
    ("default", "db", "app: db", "172.16.0.5"),
    ("kube-system", "dns", "k8s-app: kube-dns", "172.16.0.6"),
];
const OUTSIDERS: &[&str] = &["10.1.1.1", "10.2.1.1", "192.0.2.1"];
const SERVICES: &[(u8, u16)] = &[(6, 80), (6, 85), (6, 443), (17, 53), (6, 53), (132, 80), (1, 8)];

fn pods() -> Vec<Object> {
    let text: String = PODS
        .iter()
        .map(|(namespace, name, labels, ip)| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\nspec: \
                 {{containers: []}}\nstatus: {{phase: Running, podIP: {ip}}}\n"
            )
        })
        .collect();
    let report = load_text(Path::new("pods.yaml"), &text);
    assert_eq!(report.errors, []);
    report.objects.into_iter().map(|loaded| loaded.object).collect()
}

/// Every flow there is between pods, and to and from outside: allowed or not.
fn meaning(pods: &[Object], policies: impl Iterator<Item = Object>) -> Vec<bool> {
    let mut compiler = Compiler::new();
    compiler.reset(pods.iter().cloned().chain(policies));
    compiler.attach_all_by_status();
    let artefact: Artefact = compiler.artefact();
    let ends: Vec<IpAddr> =
        PODS.iter().map(|pod| pod.3).chain(OUTSIDERS.iter().copied()).map(|ip| ip.parse().unwrap()).collect();
    let mut answers = Vec::new();
    for from in &ends {
        for to in &ends {
            for (protocol, port) in SERVICES {
                let question = Question { protocol: *protocol, port: *port, established: false };
                answers.push(judge_flow(&artefact, *from, *to, question).is_allowed());
            }
        }
    }
    answers
}

fn policies(report: &FileReport) -> impl Iterator<Item = Object> {
    report.objects.iter().map(|loaded| loaded.object.clone())
}

struct Bench {
    pods: Vec<Object>,
    whole: Vec<bool>,
    text: &'static str,
    accepted: usize,
    refused: usize,
}

impl Bench {
    fn new(text: &'static str) -> Bench {
        let pods = pods();
        let report = load_text(Path::new("p.yaml"), text);
        assert_eq!(report.errors, []);
        let whole = meaning(&pods, policies(&report));
        assert!(whole.contains(&false) && whole.contains(&true));
        Bench { pods, whole, text, accepted: 0, refused: 0 }
    }

    /// `may_widen`: what was taken away may have been a restriction that stood for itself.
    fn try_one(&mut self, damaged: &str, may_widen: bool) {
        let report = load_text(Path::new("p.yaml"), damaged);
        if report.objects.is_empty() {
            assert!(!report.errors.is_empty() || !report.skipped.is_empty(), "vanished:\n{damaged}");
            self.refused += 1;
            return;
        }
        self.accepted += 1;
        assert_eq!(report.errors, [], "taken in spite of errors:\n{damaged}");
        let is_silent = report.notices.is_empty();
        if may_widen || !is_silent {
            return;
        }
        let now = meaning(&self.pods, policies(&report));
        let wider = now.iter().zip(&self.whole).filter(|(now, whole)| **now && !**whole).count();
        assert_eq!(wider, 0, "more open without a word:\n{damaged}\nfor\n{}", self.text);
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A key whose value is gone: nothing deeper follows it, nor a list at its own depth.
fn has_bare_key(text: &str) -> bool {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    lines.iter().enumerate().any(|(number, line)| {
        // The key's own column: behind the dashes of the lists it begins.
        let depth = line.len() - line.trim_start_matches([' ', '-']).len();
        let next = lines.get(number + 1);
        let has_value = next.is_some_and(|next| {
            indentation(next) > depth || (indentation(next) == depth && next.trim_start().starts_with("- "))
        });
        line.trim_end().ends_with(':') && !has_value
    })
}

#[test]
fn lost_and_gained_indentation_never_opens_anything_silently() {
    for text in DOCUMENTS {
        let mut bench = Bench::new(text);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for first in 0..lines.len() {
            for last in first..lines.len() {
                for shift in [-8, -6, -4, -2, -1, 1, 2, 4, 6] {
                    let mut damaged = lines.clone();
                    for line in &mut damaged[first..=last] {
                        let depth = indentation(line) as i32;
                        *line =
                            format!("{}{}", " ".repeat((depth + shift).max(0) as usize), line.trim_start());
                    }
                    if damaged != lines {
                        bench.try_one(&joined(&damaged), false);
                    }
                }
            }
        }
        assert!(bench.refused > 100 && bench.accepted > 0, "{} {}", bench.refused, bench.accepted);
    }
}

#[test]
fn a_key_that_lost_what_stood_under_it_never_opens_anything_silently() {
    for text in DOCUMENTS {
        let mut bench = Bench::new(text);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for first in 0..lines.len() {
            for count in 1..=4.min(lines.len() - first) {
                let mut damaged = lines.clone();
                damaged.drain(first..first + count);
                let damaged = joined(&damaged);
                let bare = has_bare_key(&damaged);
                bench.try_one(&damaged, !bare);
                let mut commented = lines.clone();
                commented[first..first + count].iter_mut().for_each(|line| line.insert(0, '#'));
                bench.try_one(&joined(&commented), !bare);
            }
            // The value alone.
            if let Some((key, value)) = lines[first].split_once(": ") {
                let mut damaged = lines.clone();
                for empty in ["", " ~", " null"] {
                    damaged[first] = format!("{key}:{empty}");
                    bench.try_one(&joined(&damaged), false);
                }
                damaged[first] = format!("{key}: # {value}");
                bench.try_one(&joined(&damaged), false);
            }
        }
        assert!(bench.refused > 20 && bench.accepted > 20, "{} {}", bench.refused, bench.accepted);
    }
}

#[test]
fn no_text_breaks_the_loader() {
    let seed = std::env::var("PENSTOCK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("PENSTOCK_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let pieces = [
        "",
        " ",
        "\n",
        "- ",
        ": ",
        "{}",
        "[]",
        "[",
        "{",
        "}",
        "\"",
        "'",
        "&a ",
        "*a",
        "!!str ",
        "~",
        "null",
        "0",
        "-1",
        "1e9",
        "é",
        "\t",
        "\u{0}",
        "\u{feff}",
        "---\n",
        "...\n",
        "? ",
        "<<: *a\n",
        "|\n",
        ">-\n",
        "#",
        "spec:",
        "ingress:",
        "except:",
        "::/0",
        "k8s:",
        "99999999999",
    ];
    let mut read = 0;
    for round in 0..20_000 {
        let text = DOCUMENTS[round % DOCUMENTS.len()];
        let mut bytes: Vec<u8> = text.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            let to = (at + random.random_range(0..6)).min(bytes.len());
            let piece = pieces[random.random_range(0..pieces.len())];
            bytes.splice(at..to, piece.bytes());
        }
        // A byte sequence that is no text never comes this far.
        let Ok(damaged) = String::from_utf8(bytes) else { continue };
        for name in ["p.yaml", "p.json"] {
            let report = load_text(Path::new(name), &damaged);
            read += report.objects.len();
            for loaded in &report.objects {
                let key = loaded.object.key();
                assert_eq!(key.namespace.is_empty(), !key.kind.is_namespaced(), "{damaged}");
                assert!(key.kind != Kind::Pod && !key.name.is_empty(), "{damaged}");
                assert!(!report.refused.contains(&key) || damaged.contains("---"), "{damaged}");
            }
            assert!(report.errors.iter().all(|error| !error.message.is_empty()));
        }
    }
    assert!(read > 50, "{read}");
}
