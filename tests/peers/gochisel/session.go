package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// session is one client's connection, from the upgrade on.
type session struct {
	*server
	id       int64
	carrier  *stream
	conn     ssh.Conn
	settings settings
	channels atomic.Int64
	done     chan struct{} // closed when the SSH connection has ended
}

// sessionSet holds the sessions that are configured.
type sessionSet struct {
	mu  sync.Mutex
	all map[*session]bool
}

func (l *sessionSet) add(c *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*session]bool{}
	}
	l.all[c] = true
}

func (l *sessionSet) remove(c *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, c)
}

func (l *sessionSet) each(do func(*session)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.all {
		do(c)
	}
}

// emit writes an event of this session.
func (c *session) emit(event string, f facts) {
	line := facts{"session": c.id}
	for k, v := range f {
		line[k] = v
	}
	c.journal.emit(event, line)
}

// hostile reports that the mode has done something.
func (c *session) hostile(step string, f facts) {
	line := facts{"mode": c.mode.name, "step": step}
	for k, v := range f {
		line[k] = v
	}
	c.emit("hostile", line)
}

var errLogin = errors.New("wrong user or password")

func (c *session) login(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
	if c.mode.onLogin != nil {
		if err := c.mode.onLogin(c); err != nil {
			return nil, err
		}
	}
	ok := c.password(meta.User(), password)
	c.emit("login", facts{"user": meta.User(), "ok": ok, "client": string(meta.ClientVersion())})
	if !ok {
		return nil, errLogin
	}
	return nil, nil
}

// run speaks SSH on the carrier until the connection ends.
func (c *session) run() error {
	config := &ssh.ServerConfig{ServerVersion: serverVersion, PasswordCallback: c.login}
	config.RekeyThreshold = c.rekeyBytes
	key := c.key
	if c.mode.tune != nil {
		if replaced := c.mode.tune(c, config); replaced != nil {
			key = replaced
		}
	}
	config.AddHostKey(key)
	c.done = make(chan struct{})
	defer close(c.done)
	conn, opens, requests, err := ssh.NewServerConn(c.carrier, config)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	defer conn.Close()
	c.conn = conn
	c.emit("connected", facts{"client": string(conn.ClientVersion())})
	if c.mode.onConnected != nil {
		if err := c.mode.onConnected(c); err != nil {
			return err
		}
	}
	defer c.live.remove(c)
	listeners, err := c.configure(requests)
	if err != nil {
		c.emit("configured", facts{"ok": false, "error": err.Error()})
		// The client hears why and hangs up, or is hung up on.
		go ssh.DiscardRequests(requests)
		time.AfterFunc(c.configTimeout, func() { conn.Close() })
		_ = conn.Wait()
		return err
	}
	defer closeAll(listeners)
	go c.answer(requests)
	go c.refuse(opens)
	for i, l := range listeners {
		go c.accept(l, c.settings.Remotes[i])
	}
	if c.pingInterval > 0 {
		go c.pings()
	}
	if c.mode.act != nil {
		go c.mode.act(c)
	}
	if err := conn.Wait(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// configure waits for the first request, binds what it asks for, and answers it. The listeners are in the order of
// the remotes; on an error nothing stays bound and the client has been told the reason.
func (c *session) configure(requests <-chan *ssh.Request) ([]net.Listener, error) {
	var r *ssh.Request
	select {
	case r = <-requests:
	case <-time.After(c.configTimeout):
		c.conn.Close()
		return nil, errors.New("no configuration in time")
	}
	if r == nil {
		return nil, errors.New("ended before the configuration")
	}
	listeners, err := c.bind(r)
	if err == nil && c.mode.onConfig != nil {
		if handled, err := c.mode.onConfig(c, r); handled {
			closeAll(listeners)
			return nil, err
		}
	}
	if err != nil {
		_ = r.Reply(false, []byte("session: "+err.Error()))
		return nil, err
	}
	bound := make([]facts, len(listeners))
	for i, l := range listeners {
		bound[i] = facts{"addr": l.Addr().String(), "target": c.settings.Remotes[i].target()}
	}
	c.live.add(c) // before it is said: an order may follow at once
	c.emit("configured", facts{"ok": true, "version": c.settings.Version, "bound": bound})
	if err := r.Reply(true, c.mode.oddReply); err != nil {
		closeAll(listeners)
		return nil, err
	}
	return listeners, nil
}

// bind checks the configuration and listens, on loopback only, for each of its remotes.
func (c *session) bind(r *ssh.Request) ([]net.Listener, error) {
	if r.Type != "config" {
		return nil, errors.New("expecting config request")
	}
	var err error
	if c.settings, err = parseSettings(r.Payload); err != nil {
		return nil, errors.New("invalid config")
	}
	var listeners []net.Listener
	for _, remote := range c.settings.Remotes {
		if !remote.Reverse || remote.LocalProto != "tcp" || remote.Stdio {
			err = fmt.Errorf("only reverse TCP remotes are served here, not %s", remote)
		} else {
			var l net.Listener
			if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", remote.LocalPort)); err == nil {
				listeners = append(listeners, l)
				continue
			}
			err = fmt.Errorf("Server cannot listen on %s", remote) //nolint:staticcheck // chisel's words
		}
		closeAll(listeners)
		return nil, err
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// answer replies to the client's global requests: pong to a ping, nothing at all to any other, as chisel does.
func (c *session) answer(requests <-chan *ssh.Request) {
	for r := range requests {
		c.emit("global-request", facts{"type": r.Type, "want_reply": r.WantReply, "bytes": len(r.Payload)})
		switch {
		case r.Type != "ping" || c.mode.deafToPings:
		case c.mode.refusesPings:
			_ = r.Reply(false, nil)
		default:
			_ = r.Reply(true, []byte("pong"))
		}
	}
}

// refuse turns down the channels that a client opens: reverse tunnels need none.
func (c *session) refuse(opens <-chan ssh.NewChannel) {
	for open := range opens {
		c.emit("channel-refused", facts{"type": open.ChannelType(), "target": string(open.ExtraData())})
		_ = open.Reject(ssh.Prohibited, "this server makes no outgoing connections")
	}
}

// pings asks the client for signs of life and ends the session when one does not come in time.
func (c *session) pings() {
	ticks := time.NewTicker(c.pingInterval)
	defer ticks.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticks.C:
		}
		late := time.AfterFunc(c.pingTimeout, func() {
			c.emit("error", facts{"stage": "ping", "error": "no answer in time"})
			c.conn.Close()
		})
		began := time.Now()
		ok, payload, err := c.conn.SendRequest("ping", true, nil)
		late.Stop()
		if err != nil {
			return
		}
		c.emit("ping", facts{"ok": ok, "payload": string(payload), "seconds": time.Since(began).Seconds()})
	}
}

// accept opens a channel for each connection to a bound port.
func (c *session) accept(l net.Listener, r remote) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go c.forward(conn, r.target())
	}
}

func (c *session) forward(conn net.Conn, target string) {
	number := c.channels.Add(1)
	channel, requests, err := c.conn.OpenChannel(channelType, []byte(target))
	if err != nil {
		_ = conn.Close()
		c.emit("channel", facts{"channel": number, "target": target, "ok": false, "error": err.Error()})
		return
	}
	c.emit("channel", facts{"channel": number, "target": target, "ok": true})
	go ssh.DiscardRequests(requests)
	sent, received := relay(channel, conn, c.halfClose)
	c.emit("channel-closed", facts{"channel": number, "sent": sent, "received": received})
}

// probe opens one channel that carries nothing and reports what became of it.
func (c *session) probe(kind string, extra []byte) (ssh.Channel, error) {
	channel, requests, err := c.conn.OpenChannel(kind, extra)
	result := facts{"type": kind, "target": string(extra[:min(len(extra), 200)]), "ok": err == nil}
	var refusal *ssh.OpenChannelError
	if errors.As(err, &refusal) {
		result["reason"], result["error"] = uint32(refusal.Reason), refusal.Message
	} else if err != nil {
		result["error"] = err.Error()
	}
	c.emit("probed", result)
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(requests)
	return channel, nil
}

// ask sends one global request and reports the answer.
func (c *session) ask(kind string, wantReply bool, payload []byte) {
	ok, reply, err := c.conn.SendRequest(kind, wantReply, payload)
	result := facts{"type": kind, "want_reply": wantReply, "ok": ok, "payload": string(reply)}
	if err != nil {
		result["error"] = err.Error()
	}
	c.emit("asked", result)
}
