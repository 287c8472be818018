package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/cilium/pkg/endpoint/regeneration"
	"github.com/cilium/cilium/pkg/iana"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/policy/trafficdirection"
	policytypes "github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/spanstat"
	testidentity "github.com/cilium/cilium/pkg/testutils/identity"
	testpolicy "github.com/cilium/cilium/pkg/testutils/policy"
	"github.com/cilium/cilium/pkg/u8proto"
	cilium "github.com/cilium/proxy/go/cilium/api"
)

// engine is a policy repository with every rule of a cluster in it.
type engine struct {
	log       *slog.Logger
	cluster   *cluster
	addresses *addresses
	repo      *policy.Repository
	// Whether any rule speaks of a port by name: then a policy differs with the destination.
	byName   bool
	distills map[endpointKey]*policy.EndpointPolicy
}

// endpointKey tells apart what a policy is distilled for.
type endpointKey struct {
	id         identity.NumericIdentity
	own, other string
}

func newEngine(log *slog.Logger, enforcement string, c *cluster, policies *imported, a *addresses) (*engine, error) {
	switch enforcement {
	case "", option.DefaultEnforcement:
		policy.SetPolicyEnabled(option.DefaultEnforcement)
	case option.AlwaysEnforce, option.NeverEnforce:
		policy.SetPolicyEnabled(enforcement)
	default:
		return nil, fmt.Errorf("enforcement is default, always or never, not %q", enforcement)
	}
	manager := identitymanager.NewIDManager(log)
	e := &engine{
		log: log, cluster: c, addresses: a, distills: map[endpointKey]*policy.EndpointPolicy{},
		repo: policy.NewPolicyRepository(log, a.known(), nil, noProxy{}, manager, testpolicy.NewPolicyMetricsNoop()),
	}
	e.repo.GetSelectorCache().SetLocalIdentityNotifier(testidentity.NewDummyIdentityNotifier())
	for _, id := range a.pods {
		manager.Add(id)
	}
	for resource, entries := range policies.rules {
		e.repo.ReplaceByResource(entries, resource)
		e.byName = e.byName || slices.ContainsFunc(entries, hasNamedPort)
	}
	return e, nil
}

func hasNamedPort(entry *policytypes.PolicyEntry) bool {
	return slices.ContainsFunc(entry.L4, func(rule api.PortRule) bool {
		return slices.ContainsFunc(rule.Ports, func(port api.PortProtocol) bool { return iana.IsSvcName(port.Port) })
	})
}

var protocols = map[string]u8proto.U8proto{
	"TCP": u8proto.TCP, "UDP": u8proto.UDP, "SCTP": u8proto.SCTP, "ICMP": u8proto.ICMP, "ICMPV6": u8proto.ICMPv6,
}

func (e *engine) judge(f *flow) (verdict, error) {
	from, err := e.cluster.resolve(f.From, netip.Addr{})
	if err != nil {
		return verdict{}, err
	}
	to, err := e.cluster.resolve(f.To, from)
	if err != nil {
		return verdict{}, err
	}
	if from, err = e.cluster.resolve(f.From, to); err != nil {
		return verdict{}, err
	}
	protocol, known := protocols[strings.ToUpper(f.Protocol)]
	if !known || f.Port == 0 {
		return verdict{}, nil // the engine would read it as every port
	}
	source, destination := e.cluster.owners[from], e.cluster.owners[to]
	var judged verdict
	if source != nil && source.isEndpoint {
		key := policy.EgressKey().WithIdentity(e.addresses.identity(to)).WithPortProto(protocol, f.Port)
		judged.Egress = e.ask(source, destination, key)
	}
	if destination != nil && destination.isEndpoint {
		key := policy.IngressKey().WithIdentity(e.addresses.identity(from)).WithPortProto(protocol, f.Port)
		judged.Ingress = e.ask(destination, nil, key)
	}
	return judged, nil
}

func (e *engine) ask(subject, peer *pod, key policy.Key) *string {
	said := "allow"
	distilled, err := e.distill(subject, peer)
	if err != nil {
		said = "conflict" // rules for the proxy contradict each other: the agent keeps what it enforced before
		return &said
	}
	isSelected := distilled.SelectorPolicy.IngressPolicyEnabled
	if key.TrafficDirection() == trafficdirection.Egress {
		isSelected = distilled.SelectorPolicy.EgressPolicyEnabled
	}
	entry, _, found := distilled.Lookup(key)
	switch {
	case !found || entry.IsDeny():
		said = "deny"
	case entry.AuthRequirement.AuthType() != policytypes.AuthTypeDisabled:
		said = "deny" // until both ends have proved who they are
	case !isSelected:
		said = "open"
	}
	return &said
}

// distill does what policy.LookupFlow does, once for each end that differs.
func (e *engine) distill(subject, peer *pod) (*policy.EndpointPolicy, error) {
	id := e.addresses.pods[subject]
	owner := &endpoint{id: uint64(id.ID), own: subject.ports}
	key := endpointKey{id: id.ID}
	if e.byName {
		key.own = subject.ports.String()
		if peer != nil {
			owner.peer = peer.ports
			key.other = peer.ports.String()
		}
	}
	if distilled, ok := e.distills[key]; ok {
		return distilled, nil
	}
	// The local node may always come in. Distilling sees to that; resolving would see to it once more, for rules that
	// redirect, and the entries it makes for that come from no rule, which panics when they meet others (seen in 1.19.0).
	option.Config.AllowLocalhost = option.AllowLocalhostPolicy
	selected, _, err := e.repo.GetSelectorPolicy(id, 0, &statistics{}, owner.id)
	if err != nil {
		return nil, err
	}
	option.Config.AllowLocalhost = option.AllowLocalhostAlways
	distilled := selected.DistillPolicy(e.log, owner, nil)
	if err := distilled.Ready(); err != nil {
		return nil, err
	}
	distilled.Detach(e.log)
	e.distills[key] = distilled
	return distilled, nil
}

// endpoint is what the engine asks about the endpoint it distils for. Names of ports are the destination's, as in
// policy.EndpointInfo; SCTP has names, too.
type endpoint struct {
	id        uint64
	own, peer namedPorts
}

func (e *endpoint) GetID() uint64 { return e.id }

func (e *endpoint) GetNamedPort(ingress bool, name string, protocol u8proto.U8proto) uint16 {
	if ingress {
		return e.own[namedPort{name, protocol}]
	}
	return e.peer[namedPort{name, protocol}]
}

func (e *endpoint) PolicyDebug(string, ...any) {}
func (e *endpoint) IsHost() bool               { return false }
func (e *endpoint) MapStateSize() int          { return 0 }

func (e *endpoint) RegenerateIfAlive(*regeneration.ExternalRegenerationMetadata) <-chan bool {
	done := make(chan bool)
	close(done)
	return done
}

type namedPort struct {
	name     string
	protocol u8proto.U8proto
}

type namedPorts map[namedPort]uint16

// add keeps the first of two ports of one name.
func (n namedPorts) add(name, protocol string, port uint16) {
	if name == "" {
		return
	}
	if protocol == "" {
		protocol = "TCP"
	}
	number, err := u8proto.ParseProtocol(protocol)
	key := namedPort{name: strings.ToLower(name), protocol: number}
	if _, taken := n[key]; err == nil && !taken {
		n[key] = port
	}
}

func (n namedPorts) String() string {
	all := make([]string, 0, len(n))
	for key, port := range n {
		all = append(all, fmt.Sprint(key.name, "/", key.protocol, "=", port))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

type statistics struct {
	waiting, calculating spanstat.SpanStat
}

func (s *statistics) WaitingForPolicyRepository() *spanstat.SpanStat { return &s.waiting }
func (s *statistics) SelectorPolicyCalculation() *spanstat.SpanStat  { return &s.calculating }

// noProxy stands where rules for the proxy would be translated.
type noProxy struct{}

func (noProxy) GetEnvoyHTTPRules(*api.L7Rules, string) (*cilium.HttpNetworkPolicyRules, bool) {
	return nil, false
}
