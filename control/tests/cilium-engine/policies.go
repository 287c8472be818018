package main

import (
	"log/slog"
	"maps"
	"net/netip"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	ipcachetypes "github.com/cilium/cilium/pkg/ipcache/types"
	"github.com/cilium/cilium/pkg/k8s"
	k8sconst "github.com/cilium/cilium/pkg/k8s/apis/cilium.io"
	corev1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	discoveryv1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	policytypes "github.com/cilium/cilium/pkg/policy/types"
	policyutils "github.com/cilium/cilium/pkg/policy/utils"
)

// imported is what the agent's policy importer would hold.
type imported struct {
	rules    map[ipcachetypes.ResourceID]policytypes.PolicyEntries
	prefixes map[ipcachetypes.ResourceID][]netip.Prefix
	refused  []refusal
}

func (c *cluster) importPolicies(log *slog.Logger) *imported {
	into := &imported{
		rules:    map[ipcachetypes.ResourceID]policytypes.PolicyEntries{},
		prefixes: map[ipcachetypes.ResourceID][]netip.Prefix{},
	}
	keep := func(kind ipcachetypes.ResourceKind, namespace, name string, entries policytypes.PolicyEntries, err error) {
		resource := ipcachetypes.NewResourceID(kind, namespace, name)
		if err != nil {
			into.refused = append(into.refused, refusal{Object: string(resource), Error: err.Error()})
			return
		}
		into.rules[resource] = entries
		into.prefixes[resource] = policy.GetCIDRPrefixes(entries)
	}
	for _, object := range c.networks {
		namespace := object.Namespace
		if namespace == "" {
			namespace = "default"
		}
		entries, err := k8s.ParseNetworkPolicy(log, cmtypes.PolicyAnyCluster, object)
		keep(ipcachetypes.ResourceKindNetpol, namespace, object.Name, entries, err)
	}
	quiet := slog.New(slog.DiscardHandler)
	for _, object := range c.ciliums {
		kind := ipcachetypes.ResourceKindCNP
		if object.Namespace == "" {
			kind = ipcachetypes.ResourceKindCCNP
		}
		// As policyWatcher.resolveCiliumNetworkPolicyRefs: services first, then the parser.
		c.resolveServices(object.Spec)
		for _, spec := range object.Specs {
			c.resolveServices(spec)
		}
		rules, err := object.Parse(quiet, cmtypes.PolicyAnyCluster)
		keep(kind, object.Namespace, object.Name, policyutils.RulesToPolicyEntries(rules), err)
	}
	return into
}

// resolveServices follows serviceEndpoints.processRule of pkg/policy/k8s, which is not exported: a service with a selector
// becomes its selector, one without becomes its backends' addresses.
func (c *cluster) resolveServices(rule *api.Rule) {
	if rule == nil {
		return
	}
	for i := range rule.Egress {
		egress := &rule.Egress[i]
		for _, wanted := range egress.ToServices {
			for _, service := range c.services {
				if !isWanted(&wanted, service) {
					continue
				}
				if len(service.Spec.Selector) == 0 {
					for _, address := range c.backends(service) {
						cidr := api.CIDR(netip.PrefixFrom(address, address.BitLen()).String())
						egress.ToCIDRSet = append(egress.ToCIDRSet, api.CIDRRule{Cidr: cidr, Generated: true})
					}
					continue
				}
				selector := maps.Clone(service.Spec.Selector)
				selector[labels.LabelSourceK8sKeyPrefix+k8sconst.PodNamespaceLabel] = service.Namespace
				endpoints := api.NewESFromMatchRequirements(selector, nil)
				endpoints.Generated = true
				egress.ToEndpoints = append(egress.ToEndpoints, endpoints)
			}
		}
	}
}

func isWanted(wanted *api.Service, service *corev1.Service) bool {
	if selector := wanted.K8sServiceSelector; selector != nil {
		own := labelsByKey(labels.Map2Labels(service.Labels, labels.LabelSourceK8s))
		return (selector.Namespace == "" || selector.Namespace == service.Namespace) &&
			policytypes.Matches(policytypes.NewLabelSelector(api.EndpointSelector(selector.Selector)), own)
	}
	if named := wanted.K8sService; named != nil {
		return (named.Namespace == "" || named.Namespace == service.Namespace) && named.ServiceName == service.Name
	}
	return false
}

// labelsByKey is pkg/policy/k8s.labelsMatcher: a label's source does not matter.
type labelsByKey labels.Labels

func (l labelsByKey) GetLabel(label *labels.Label) string { return l[label.Key].Value }

func (l labelsByKey) HasLabel(label *labels.Label) bool {
	_, ok := l[label.Key]
	return ok
}

func (l labelsByKey) LookupLabel(label *labels.Label) (string, bool) {
	found, ok := l[label.Key]
	return found.Value, ok
}

func (c *cluster) backends(service *corev1.Service) []netip.Addr {
	var found []netip.Addr
	for _, slice := range c.slices {
		if slice.Namespace == service.Namespace && slice.Labels["kubernetes.io/service-name"] == service.Name {
			found = append(found, backends(slice)...)
		}
	}
	return found
}

// backends lists the addresses of a slice that serve.
func backends(slice *discoveryv1.EndpointSlice) []netip.Addr {
	var found []netip.Addr
	for _, endpoint := range slice.Endpoints {
		if ready := endpoint.Conditions.Ready; ready != nil && !*ready {
			continue
		}
		for _, text := range endpoint.Addresses {
			if address, err := netip.ParseAddr(text); err == nil {
				found = append(found, address)
			}
		}
	}
	return found
}
