package main

import (
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// handshakeModes misbehave in the SSH handshake and the login.
var handshakeModes = []hostileMode{
	{name: "silent-after-version", stage: "handshake", expect: expectEnd, does: "sends its SSH version, then nothing",
		quirks: rawQuirks{noKexInit: true}, raw: handshakeOnly},
	{name: "silent-in-kex", stage: "handshake", expect: expectEnd, does: "sends KEXINIT and never answers the client's key",
		quirks: rawQuirks{noKexReply: true}, raw: handshakeOnly},
	{name: "silent-after-kex", stage: "handshake", expect: expectEnd, does: "exchanges keys and never accepts a service",
		quirks: rawQuirks{noServiceAccept: true}, raw: handshakeOnly},
	{name: "old-version", stage: "handshake", expect: expectEnd, does: "says SSH-1.5 in its version string",
		quirks: rawQuirks{version: "SSH-1.5-old"}, raw: handshakeOnly},
	{name: "no-common-cipher", stage: "handshake", expect: expectEnd, does: "offers no cipher that exists",
		quirks: rawQuirks{unknownCipher: true}, raw: handshakeOnly},
	{name: "wrong-key", stage: "handshake", expect: expectEnd, does: "has another host key than the one it announces",
		tune: func(c *session, _ *ssh.ServerConfig) ssh.Signer {
			other, err := hostKey("")
			if err != nil {
				c.emit("error", facts{"stage": "key", "error": err.Error()})
			}
			return other
		}},
	{name: "bad-signature", stage: "handshake", expect: expectEnd,
		does:   "shows the announced host key without having it: the signature is over another exchange",
		quirks: rawQuirks{badSignature: true}, raw: handshakeOnly},
	{name: "silent-in-auth", stage: "handshake", expect: expectEnd, does: "never answers the password",
		onLogin: func(c *session) error {
			c.hostile("silent", nil)
			time.Sleep(time.Hour)
			return errLogin
		}},
	{name: "auth-refused", stage: "handshake", expect: expectEnd, does: "refuses every password",
		onLogin: func(*session) error { return errLogin }},
	{name: "auth-other-method", stage: "handshake", expect: expectEnd, does: "offers public keys only",
		tune: func(_ *session, config *ssh.ServerConfig) ssh.Signer {
			config.PasswordCallback = nil
			config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				return nil, errLogin
			}
			return nil
		}},
	{name: "auth-banner", stage: "handshake", expect: expectCarryOn,
		does: "behaves, and sends a login banner of 16 KiB with control characters",
		tune: func(_ *session, config *ssh.ServerConfig) ssh.Signer {
			config.BannerCallback = func(ssh.ConnMetadata) string {
				return strings.Repeat("\x1b[2J{\"level\":\"error\"}\r\n", 700)
			}
			return nil
		}},
}

// configModes misbehave between the login and the first channel.
var configModes = []hostileMode{
	{name: "silent-after-auth", stage: "config", expect: expectEnd, does: "stops reading and writing once the client is logged in",
		onConnected: func(c *session) error {
			c.hostile("frozen", nil)
			c.gate.freeze()
			return c.conn.Wait()
		}},
	{name: "silent-on-config", stage: "config", expect: expectEnd, does: "never answers the configuration",
		onConfig: func(c *session, _ *ssh.Request) (bool, error) {
			c.hostile("silent", nil)
			return true, c.conn.Wait()
		}},
	{name: "config-refused", stage: "config", expect: expectEnd, does: "refuses the configuration: cannot listen on the first remote",
		onConfig: func(c *session, r *ssh.Request) (bool, error) {
			reason := "server: Server cannot listen on " + firstRemote(c)
			return true, errors.Join(r.Reply(false, []byte(reason)), errors.New("refused"))
		}},
	{name: "config-refused-nasty", stage: "config", expect: expectEnd,
		does: "refuses the configuration with 30 KiB of control characters and invalid UTF-8",
		onConfig: func(_ *session, r *ssh.Request) (bool, error) {
			reason := strings.Repeat("\x1b[31m\r\n{\"level\":\"info\"}\xff\x00", 1200)
			return true, errors.Join(r.Reply(false, []byte(reason)), errors.New("refused"))
		}},
	{name: "config-odd-reply", stage: "config", expect: expectEnd,
		does:     "accepts the configuration with broken JSON as payload; to Go's client any payload is a refusal",
		oddReply: []byte(`{"Version": `)},
	{name: "close-after-config", stage: "config", expect: expectEnd, does: "accepts the configuration and hangs up",
		act: func(c *session) { c.conn.Close() }},
	{name: "frozen-after-config", stage: "config", expect: expectEnd,
		does: "accepts the configuration, then all traffic stops, as behind a dead NAT entry",
		act: func(c *session) {
			time.Sleep(200 * time.Millisecond) // the acceptance is to arrive
			c.hostile("frozen", nil)
			c.gate.freeze()
		}},
	{name: "silent-on-ping", stage: "config", expect: expectEnd, does: "works, but never answers a ping", deafToPings: true},
	{name: "ping-failure", stage: "config", expect: expectCarryOn,
		does: "works, and answers pings with REQUEST_FAILURE: a sign of life all the same", refusesPings: true},
	{name: "rekey-storm", stage: "config", expect: expectCarryOn, does: "works, and exchanges keys every 4 KiB",
		tune: func(_ *session, config *ssh.ServerConfig) ssh.Signer {
			config.RekeyThreshold = 4 << 10
			return nil
		}},
	{name: "unknown-requests", stage: "config", expect: expectRefuse,
		does: "sends unknown global requests, with and without want-reply",
		act: func(c *session) {
			for _, kind := range []string{"tcpip-forward", "hostkeys-00@openssh.com", "config", "no-such-request", "", "\xff\x00"} {
				c.ask(kind, false, []byte("payload"))
				c.ask(kind, true, make([]byte, 20000))
			}
			c.hostile("end", nil)
		}},
}

func firstRemote(c *session) string {
	if len(c.settings.Remotes) == 0 {
		return "nothing"
	}
	return c.settings.Remotes[0].String()
}

// channelModes open channels that a client must not accept, or too many.
var channelModes = []hostileMode{
	{name: "unknown-channel-types", stage: "channel", expect: expectRefuse, does: "opens channels of other types than chisel",
		act: func(c *session) {
			c.probeAll("session", "direct-tcpip", "forwarded-tcpip", "x11", "auth-agent@openssh.com", "chisel2", "Chisel", "", "\xff\xfe")
		}},
	{name: "unconfigured-target", stage: "channel", expect: expectRefuse, does: "asks for targets that are not configured",
		act: func(c *session) {
			c.probeTargets("127.0.0.1:22", "localhost:2375", "169.254.169.254:80", "[::1]:22", "example.invalid:80")
			c.hostile("end", nil)
		}},
	{name: "socks-channel", stage: "channel", expect: expectRefuse, does: "asks for SOCKS5",
		act: func(c *session) { c.probeTargets("socks", "SOCKS"); c.hostile("end", nil) }},
	{name: "udp-channel", stage: "channel", expect: expectRefuse, does: "asks for UDP to a configured target",
		act: func(c *session) {
			for _, r := range c.settings.Remotes {
				c.probeTargets(r.target()+"/udp", r.target()+"/UDP")
			}
			c.hostile("end", nil)
		}},
	{name: "malformed-target", stage: "channel", expect: expectRefuse, does: "asks for targets that are no host and port",
		act: func(c *session) {
			target := "127.0.0.1:1"
			if len(c.settings.Remotes) > 0 {
				target = c.settings.Remotes[0].target()
			}
			c.probeTargets("", ":", ":80", "host", "host:", "host:99999", "host:-1", "host:8\x00", "\xff\xfe:80", "a:b:c",
				target+" ", " "+target, target+"\x00", target+"\n", strings.Repeat("x", 30000)+":80")
			c.hostile("end", nil)
		}},
	{name: "channel-flood", stage: "channel", expect: expectRefuse,
		does: "opens 2,500 channels to the first configured target at once and keeps them",
		act:  channelFlood},
	{name: "open-close-storm", stage: "channel", expect: expectCarryOn,
		does: "opens and closes 2,000 channels to the first configured target, 50 at a time",
		act: func(c *session) {
			parallel(2000, 50, func() {
				if channel, err := c.probe(channelType, []byte(c.firstTarget())); err == nil {
					_ = channel.Close()
				}
			})
			c.hostile("end", nil)
		}},
}

func (c *session) firstTarget() string {
	if len(c.settings.Remotes) == 0 {
		return ""
	}
	return c.settings.Remotes[0].target()
}

func (c *session) probeAll(kinds ...string) {
	for _, kind := range kinds {
		_, _ = c.probe(kind, []byte(c.firstTarget()))
	}
	c.hostile("end", nil)
}

func (c *session) probeTargets(targets ...string) {
	for _, target := range targets {
		_, _ = c.probe(channelType, []byte(target))
	}
}

// parallel calls do count times, at most width at once.
func parallel(count, width int, do func()) {
	var all sync.WaitGroup
	slots := make(chan struct{}, width)
	for range count {
		all.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; all.Done() }()
			do()
		}()
	}
	all.Wait()
}

// channelFlood reports how many of its channels were accepted and how many refused.
func channelFlood(c *session) {
	var mu sync.Mutex
	accepted, refused := 0, 0
	parallel(2500, 2500, func() {
		channel, requests, err := c.conn.OpenChannel(channelType, []byte(c.firstTarget()))
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			refused++
			return
		}
		accepted++
		go ssh.DiscardRequests(requests)
		go func() { _, _ = io.Copy(io.Discard, channel) }()
	})
	c.hostile("end", facts{"accepted": accepted, "refused": refused})
}
