package main

import (
	"encoding/json"
	"fmt"
	"net/netip"

	ciliumv2 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/v2"
	corev1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	discoveryv1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	networkingv1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/networking/v1"
	metav1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/apis/meta/v1"
	k8sutils "github.com/cilium/cilium/pkg/k8s/utils"
)

const namespaceNameLabel = "kubernetes.io/metadata.name"

// cluster is what an agent's watchers would have seen.
type cluster struct {
	node       string
	host       map[netip.Addr]bool
	namespaces map[string]*corev1.Namespace
	pods       []*pod
	nodes      []*corev1.Node
	services   []*corev1.Service
	slices     []*discoveryv1.EndpointSlice
	groups     []*ciliumv2.CiliumCIDRGroup
	networks   []*networkingv1.NetworkPolicy
	ciliums    []*ciliumv2.CiliumNetworkPolicy
	// Who has which address.
	owners map[netip.Addr]*pod
	byName map[string]*pod
}

type pod struct {
	object    *corev1.Pod
	addresses []netip.Addr
	ports     namedPorts
	// This node's agent enforces policy for it.
	isEndpoint bool
}

// readCluster sorts objects by kind. Objects of other kinds say nothing about policy.
func readCluster(asked *question) (*cluster, error) {
	c := &cluster{
		node:       asked.Node,
		host:       map[netip.Addr]bool{},
		namespaces: map[string]*corev1.Namespace{},
		owners:     map[netip.Addr]*pod{},
		byName:     map[string]*pod{},
	}
	for _, address := range asked.HostAddresses {
		c.host[address] = true
	}
	for i, raw := range asked.Objects {
		if err := c.add(raw); err != nil {
			return nil, fmt.Errorf("object %d: %w", i, err)
		}
	}
	for _, pod := range c.pods {
		if err := c.settle(pod); err != nil {
			return nil, err
		}
	}
	for i := range asked.Attached {
		c.attach(&asked.Attached[i])
	}
	if asked.Attached == nil {
		for _, pod := range c.owners {
			pod.isEndpoint = true
		}
	}
	return c, nil
}

func (c *cluster) add(raw json.RawMessage) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	switch head.Kind {
	case "Namespace":
		object, err := decode[corev1.Namespace](raw)
		c.namespaces[object.Name] = object
		return err
	case "Pod":
		object, err := decode[corev1.Pod](raw)
		inDefault(&object.ObjectMeta)
		c.pods = append(c.pods, &pod{object: object})
		return err
	case "Node":
		return keep(&c.nodes, raw)
	case "Service":
		return keep(&c.services, raw)
	case "EndpointSlice":
		return keep(&c.slices, raw)
	case "CiliumCIDRGroup":
		return keep(&c.groups, raw)
	case "NetworkPolicy":
		return keep(&c.networks, raw)
	case "CiliumNetworkPolicy":
		object, err := decode[ciliumv2.CiliumNetworkPolicy](raw)
		if object.Namespace == "" {
			object.Namespace = "default"
		}
		c.ciliums = append(c.ciliums, object)
		return err
	case "CiliumClusterwideNetworkPolicy":
		// As the agent does: a clusterwide policy travels as one without a namespace.
		object, err := decode[ciliumv2.CiliumNetworkPolicy](raw)
		object.Namespace = ""
		c.ciliums = append(c.ciliums, object)
		return err
	}
	return nil
}

func decode[T any](raw json.RawMessage) (*T, error) {
	object := new(T)
	return object, json.Unmarshal(raw, object)
}

func keep[T any](list *[]*T, raw json.RawMessage) error {
	object, err := decode[T](raw)
	*list = append(*list, object)
	return err
}

func inDefault(meta *metav1.ObjectMeta) {
	if meta.Namespace == "" {
		meta.Namespace = "default"
	}
}

// settle finds a pod's addresses and named ports. A pod that is over has neither (watchers.K8sPodWatcher removes it), nor
// has one on its node's network an address of its own.
func (c *cluster) settle(p *pod) error {
	object := p.object
	c.byName[object.Namespace+"/"+object.Name] = p
	if !k8sutils.IsPodRunning(object.Status) || object.Spec.HostNetwork {
		return nil
	}
	for _, text := range k8sutils.ValidIPs(object.Status) {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("pod %s/%s: %w", object.Namespace, object.Name, err)
		}
		p.addresses = append(p.addresses, address)
		c.owners[address] = p
	}
	p.ports = namedPorts{}
	for _, container := range object.Spec.Containers {
		for _, port := range container.Ports {
			p.ports.add(port.Name, string(port.Protocol), uint16(port.ContainerPort))
		}
	}
	return nil
}

// attach makes a pod an endpoint. Its addresses are those its interface was given: nobody else has them, and those in its
// status do not count.
func (c *cluster) attach(attached *attachment) {
	p := c.byName[attached.Namespace+"/"+attached.Name]
	if p == nil || !k8sutils.IsPodRunning(p.object.Status) || p.object.Spec.HostNetwork {
		return
	}
	if !p.isEndpoint {
		for _, address := range p.addresses {
			if c.owners[address] == p {
				delete(c.owners, address)
			}
		}
		p.addresses = nil
	}
	p.isEndpoint = true
	for _, address := range attached.Addresses {
		p.addresses = append(p.addresses, address)
		c.owners[address] = p
	}
}

// namespace gives the object the API server would show: with its name among its labels.
func (c *cluster) namespace(name string) *corev1.Namespace {
	object := c.namespaces[name]
	if object == nil {
		object = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		c.namespaces[name] = object
	}
	if object.Labels == nil {
		object.Labels = map[string]string{}
	}
	object.Labels[namespaceNameLabel] = name
	return object
}

// resolve finds the address behind "ns/pod", or reads one. For a pod with several, the first of the other end's family.
func (c *cluster) resolve(text string, like netip.Addr) (netip.Addr, error) {
	if address, err := netip.ParseAddr(text); err == nil {
		return address, nil
	}
	pod := c.byName[text]
	if pod == nil || len(pod.addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("%q is neither an address nor a pod that has one", text)
	}
	for _, address := range pod.addresses {
		if address.Is4() == like.Is4() && like.IsValid() {
			return address, nil
		}
	}
	return pod.addresses[0], nil
}
