package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// The names on the wire.
const (
	protocolName  = "chisel-v3"
	clientVersion = "SSH-chisel-v3-client"
	serverVersion = "SSH-chisel-v3-server"
	channelType   = "chisel"
	buildVersion  = "gochisel"
)

// remote is one entry of the configuration. In a reverse remote Local is the server's side and Remote is where the
// client connects. Ports are strings on the wire.
type remote struct {
	LocalHost, LocalPort, LocalProto    string
	RemoteHost, RemotePort, RemoteProto string
	Socks, Reverse, Stdio               bool
}

// settings is the payload of the request "config".
type settings struct {
	Version string
	Remotes []remote
}

func parseSettings(payload []byte) (settings, error) {
	var s settings
	err := json.Unmarshal(payload, &s)
	return s, err
}

// target is the extra data of a channel for this remote.
func (r remote) target() string {
	if r.Socks {
		return "socks"
	}
	t := r.RemoteHost + ":" + r.RemotePort
	if r.RemoteProto == "udp" {
		t += "/udp"
	}
	return t
}

// String shows the remote as chisel's messages do: R:port=>host:port, without the default hosts.
func (r remote) String() string {
	s := strings.TrimPrefix(r.LocalHost+":"+r.LocalPort, "0.0.0.0:") + "=>" +
		strings.TrimPrefix(r.target(), "127.0.0.1:")
	if r.Reverse {
		return "R:" + s
	}
	return s
}

// parseRemote reads R:port, R:port:host:port or R:address:port:host:port. IPv6 hosts stand in brackets. Port 0 on
// the server's side lets the server choose.
func parseRemote(text string) (remote, error) {
	rest, reverse := strings.CutPrefix(text, "R:")
	if !reverse {
		return remote{}, fmt.Errorf("remote %q: only reverse remotes (R:…) are spoken here", text)
	}
	parts, err := splitColons(rest)
	if err != nil {
		return remote{}, fmt.Errorf("remote %q: %w", text, err)
	}
	r := remote{LocalHost: "0.0.0.0", RemoteHost: "127.0.0.1", LocalProto: "tcp", RemoteProto: "tcp", Reverse: true}
	switch len(parts) {
	case 1:
		r.LocalPort, r.RemotePort = parts[0], parts[0]
	case 3:
		r.LocalPort, r.RemoteHost, r.RemotePort = parts[0], parts[1], parts[2]
	case 4:
		r.LocalHost, r.LocalPort, r.RemoteHost, r.RemotePort = parts[0], parts[1], parts[2], parts[3]
	default:
		return remote{}, fmt.Errorf("remote %q: expected R:[[address:]port:host:]port", text)
	}
	for _, port := range []string{r.LocalPort, r.RemotePort} {
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return remote{}, fmt.Errorf("remote %q: %q is not a port", text, port)
		}
	}
	return r, nil
}

// splitColons splits at colons that are not within brackets; brackets stay.
func splitColons(s string) ([]string, error) {
	var parts []string
	depth, start := 0, 0
	for i, c := range s {
		switch c {
		case '[':
			depth++
		case ']':
			depth--
		case ':':
			if depth == 0 {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		}
	}
	if depth != 0 {
		return nil, errors.New("brackets do not match")
	}
	return append(parts, s[start:]), nil
}

// dialable says what a channel's extra data asks for: a TCP address, or an error that names the kind that is not
// spoken here.
func dialable(target string) (string, error) {
	if target == "socks" {
		return "", errors.New("SOCKS5 is not enabled")
	}
	if strings.HasSuffix(strings.ToLower(target), "/udp") {
		return "", errors.New("UDP is not enabled")
	}
	if len(target) > 4 && strings.EqualFold(target[len(target)-4:], "/tcp") {
		target = target[:len(target)-4]
	}
	if _, _, err := net.SplitHostPort(target); err != nil {
		return "", err
	}
	return target, nil
}
