package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/ipcache"
	ipcachetypes "github.com/cilium/cilium/pkg/ipcache/types"
	k8sutils "github.com/cilium/cilium/pkg/k8s/utils"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/source"
	testidentity "github.com/cilium/cilium/pkg/testutils/identity"
)

// addresses is Cilium's ipcache, filled the way an agent fills it.
type addresses struct {
	cache     *ipcache.IPCache
	allocator *testidentity.MockIdentityAllocator
	pods      map[*pod]*identity.Identity
	stop      context.CancelFunc
}

// everyoneKnows stands for the selector cache, which is made when all identities are there.
type everyoneKnows struct{}

func (everyoneKnows) UpdateIdentities(_, _ identity.IdentityMap) <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (c *cluster) mapAddresses(log *slog.Logger, policies *imported) (*addresses, error) {
	// The host's identity is a global of the process: labels of an earlier cluster's node must not stay on it.
	identity.AddReservedIdentity(identity.ReservedIdentityHost, labels.IDNameHost)
	ctx, stop := context.WithCancel(context.Background())
	a := &addresses{allocator: testidentity.NewMockIdentityAllocator(nil), pods: map[*pod]*identity.Identity{}, stop: stop}
	a.cache = ipcache.NewIPCache(&ipcache.Configuration{
		Context:           ctx,
		Logger:            log,
		IdentityAllocator: a.allocator,
		IdentityUpdater:   everyoneKnows{},
	})
	if err := c.fill(ctx, a, policies); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (c *cluster) fill(ctx context.Context, a *addresses, policies *imported) error {
	revision := a.cache.UpsertMetadataBatch(c.metadata(policies)...)
	if err := a.cache.WaitForRevision(ctx, revision); err != nil {
		return err
	}
	for address, pod := range c.owners {
		if a.pods[pod] == nil {
			id, _, err := a.allocator.AllocateIdentity(ctx, c.podLabels(pod), false, identity.InvalidIdentity)
			if err != nil {
				return err
			}
			a.pods[pod] = id
		}
		entry := ipcache.Identity{ID: a.pods[pod].ID, Source: source.CustomResource}
		if _, err := a.cache.Upsert(address.String(), nil, 0, nil, entry); err != nil {
			return err
		}
	}
	return nil
}

func (a *addresses) close() {
	a.stop()
	_ = a.cache.Shutdown()
}

// identity finds who an address is, by longest prefix.
func (a *addresses) identity(address netip.Addr) identity.NumericIdentity {
	found, ok := a.cache.LookupSecIDByIP(address)
	if !ok {
		return identity.ReservedIdentityWorld
	}
	return found.ID
}

// known is every identity policy may speak of.
func (a *addresses) known() identity.IdentityMap {
	all := identity.ListReservedIdentities()
	maps.Copy(all, a.allocator.IdentityMap)
	return all
}

// podLabels follows pkg/k8s.GetPodMetadata, without the filter for labels an operator finds irrelevant.
func (c *cluster) podLabels(p *pod) labels.Labels {
	object := p.object
	account := object.Spec.ServiceAccountName
	if account == "" {
		account = "default" // the API server writes it down
	}
	clean := k8sutils.SanitizePodLabels(object.Labels, c.namespace(object.Namespace), account, clusterName)
	return labels.Map2Labels(clean, labels.LabelSourceK8s)
}

// metadata gathers what the parts of an agent tell the ipcache: the world (daemon/cmd), nodes (pkg/node/manager), the API
// server (pkg/k8s/watchers), prefixes in policies (pkg/policy/cell) and CIDR groups (pkg/policy/k8s).
func (c *cluster) metadata(policies *imported) []ipcache.MU {
	var all []ipcache.MU
	tell := func(prefix netip.Prefix, from source.Source, resource ipcachetypes.ResourceID, isCIDR bool, l labels.Labels) {
		all = append(all, ipcache.MU{
			Prefix: cmtypes.NewLocalPrefixCluster(prefix), Source: from, Resource: resource,
			Metadata: []ipcache.IPMetadata{l}, IsCIDR: isCIDR,
		})
	}
	single := func(address netip.Addr) netip.Prefix { return netip.PrefixFrom(address, address.BitLen()) }

	tell(netip.MustParsePrefix("0.0.0.0/0"), source.Local, "daemon", false, labels.LabelWorldIPv4)
	tell(netip.MustParsePrefix("::/0"), source.Local, "daemon", false, labels.LabelWorldIPv6)
	for address := range c.host {
		tell(single(address), source.Local, "daemon", false, labels.LabelHost)
	}
	for _, node := range c.nodes {
		who := labels.LabelRemoteNode
		if node.Name == c.node {
			who = labels.LabelHost
		}
		for _, listed := range node.Status.Addresses {
			address, err := netip.ParseAddr(listed.Address)
			if err == nil && !c.host[address] {
				tell(single(address), source.CustomResource, ipcachetypes.NewResourceID(ipcachetypes.ResourceKindNode, "", node.Name), false, who)
			}
		}
	}
	for _, address := range c.apiServers() {
		tell(single(address), source.KubeAPIServer, "kube-apiserver", false, labels.LabelKubeAPIServer)
	}
	for resource, prefixes := range policies.prefixes {
		for _, prefix := range prefixes {
			tell(prefix, source.CustomResource, resource, true, labels.GetCIDRLabels(prefix))
		}
	}
	for _, group := range c.groups {
		resource := ipcachetypes.NewResourceID(ipcachetypes.ResourceKindCIDRGroup, "", group.Name)
		own := labels.Map2Labels(k8sutils.RemoveCiliumLabels(group.Labels), labels.LabelSourceCIDRGroup)
		name := api.LabelForCIDRGroupRef(group.Name)
		own[name.Key] = name
		for _, text := range group.Spec.ExternalCIDRs {
			prefix, err := netip.ParsePrefix(string(text))
			if err != nil {
				continue
			}
			here := maps.Clone(own)
			here.AddWorldLabel(prefix.Addr())
			tell(prefix, source.Generated, resource, false, here)
		}
	}
	return all
}

// apiServers lists the backends of the Service kubernetes.
func (c *cluster) apiServers() []netip.Addr {
	var found []netip.Addr
	for _, slice := range c.slices {
		if slice.Namespace == "default" && slice.Labels["kubernetes.io/service-name"] == "kubernetes" {
			found = append(found, backends(slice)...)
		}
	}
	return found
}
