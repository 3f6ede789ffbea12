package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// The messages that a raw session reads and writes (RFC 4252, RFC 4254).
type (
	serviceRequest struct {
		Service string `sshtype:"5"`
	}
	serviceAccept struct {
		Service string `sshtype:"6"`
	}
	authRequest struct {
		User    string `sshtype:"50"`
		Service string
		Method  string
		Rest    []byte `ssh:"rest"`
	}
	authFailure struct {
		Methods []string `sshtype:"51"`
		Partial bool
	}
	globalRequest struct {
		Type      string `sshtype:"80"`
		WantReply bool
		Data      []byte `ssh:"rest"`
	}
	channelOpen struct {
		Type   string `sshtype:"90"`
		Sender uint32
		Window uint32
		Packet uint32
		Extra  []byte `ssh:"rest"`
	}
	channelConfirm struct {
		Recipient uint32 `sshtype:"91"`
		Sender    uint32
		Window    uint32
		Packet    uint32
		Extra     []byte `ssh:"rest"`
	}
	channelFailed struct {
		Recipient uint32 `sshtype:"92"`
		Reason    uint32
		Message   string
		Language  string
	}
	disconnect struct {
		Reason   uint32 `sshtype:"1"`
		Message  string
		Language string
	}
)

// rawSession is a session whose every message is under the mode's control. It logs the client in, accepts whatever
// it configures without listening anywhere, and answers pings; then the mode acts, and what the client sends on
// channels comes to it.
type rawSession struct {
	*session
	raw    *rawConn
	inbox  chan []byte // messages about channels, in order
	target string      // of the client's first remote: a channel to it is legitimate
	next   uint32      // our next channel number
}

// runRaw speaks SSH by the raw transport until the connection ends.
func (c *session) runRaw() error {
	raw, err := newRawConn(c.carrier, c.key, c.mode.quirks)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	s := &rawSession{session: c, raw: raw, inbox: make(chan []byte, 4096)}
	if err := s.authenticate(); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	c.emit("connected", facts{"client": raw.clientVersion})
	for {
		packet, err := raw.readPacket()
		if err != nil {
			return err
		}
		if err := s.handle(packet); err != nil {
			return err
		}
	}
}

func (s *rawSession) authenticate() error {
	for {
		packet, err := s.raw.readPacket()
		if err != nil {
			return err
		}
		switch packet[0] {
		case msgServiceRequest:
			if s.mode.quirks.noServiceAccept {
				return s.raw.deaf()
			}
			var m serviceRequest
			if err := ssh.Unmarshal(packet, &m); err != nil {
				return err
			}
			if err := s.raw.send(ssh.Marshal(&serviceAccept{m.Service})); err != nil {
				return err
			}
		case msgAuthRequest:
			ok, err := s.tryLogin(packet)
			if ok || err != nil {
				return err
			}
		case msgDisconnect:
			return disconnected(packet)
		}
	}
}

func (s *rawSession) tryLogin(packet []byte) (bool, error) {
	var m authRequest
	if err := ssh.Unmarshal(packet, &m); err != nil {
		return false, err
	}
	if m.Method == "password" && len(m.Rest) >= 5 && s.password(m.User, m.Rest[5:]) {
		s.emit("login", facts{"user": m.User, "ok": true, "client": s.raw.clientVersion})
		return true, s.raw.send([]byte{msgAuthSuccess})
	}
	return false, s.raw.send(ssh.Marshal(&authFailure{Methods: []string{"password"}}))
}

func disconnected(packet []byte) error {
	var m disconnect
	if err := ssh.Unmarshal(packet, &m); err != nil {
		return err
	}
	return fmt.Errorf("the client disconnected, reason %d: %s", m.Reason, m.Message)
}

// handle answers one message or passes it on to the mode.
func (s *rawSession) handle(packet []byte) error {
	switch packet[0] {
	case msgKexInit:
		return s.raw.finishKex(packet)
	case msgDisconnect:
		return disconnected(packet)
	case msgIgnore, msgDebug:
		return nil
	case msgUnimplemented:
		s.emit("unimplemented", nil)
		return nil
	case msgGlobalRequest:
		return s.handleGlobal(packet)
	}
	select {
	case s.inbox <- packet:
	default: // a mode that does not read does not care
	}
	return nil
}

func (s *rawSession) handleGlobal(packet []byte) error {
	var m globalRequest
	if err := ssh.Unmarshal(packet, &m); err != nil {
		return err
	}
	s.emit("global-request", facts{"type": m.Type, "want_reply": m.WantReply, "bytes": len(m.Data)})
	switch m.Type {
	case "ping":
		return s.raw.send(append([]byte{msgRequestSuccess}, "pong"...))
	case "config":
		var err error
		if s.settings, err = parseSettings(m.Data); err != nil {
			return s.raw.send(append([]byte{msgRequestFailure}, "invalid config"...))
		}
		if len(s.settings.Remotes) > 0 {
			s.target = s.settings.Remotes[0].target()
		}
		s.emit("configured", facts{"ok": true, "version": s.settings.Version})
		if err := s.raw.send([]byte{msgRequestSuccess}); err != nil {
			return err
		}
		if s.mode.raw != nil {
			go func() {
				s.hostile("act", nil)
				result := facts{}
				if err := s.mode.raw(s); err != nil {
					result["error"] = err.Error()
				}
				s.hostile("end", result)
			}()
		}
	}
	return nil
}

// ignored is how long a mode waits for an answer that need not come.
const ignored = 5 * time.Second

// await returns the next message about channels that is one of kinds; the others are dropped.
func (s *rawSession) await(kinds ...byte) ([]byte, error) {
	expired := time.After(ignored)
	for {
		select {
		case packet := <-s.inbox:
			for _, kind := range kinds {
				if packet[0] == kind {
					return packet, nil
				}
			}
		case <-expired:
			return nil, fmt.Errorf("no answer within %s", ignored)
		}
	}
}

// offer sends a CHANNEL_OPEN to the configured target with a window of ours and returns our number for it.
func (s *rawSession) offer(window, packet uint32) (uint32, error) {
	number := s.next
	s.next++
	return number, s.raw.send(ssh.Marshal(&channelOpen{channelType, number, window, packet, []byte(s.target)}))
}

const (
	usualWindow = 2 << 20
	usualPacket = 32 << 10
)

// open opens a channel to the configured target and waits until the client has confirmed it.
func (s *rawSession) open(window, packet uint32) (channelConfirm, error) {
	var m channelConfirm
	if _, err := s.offer(window, packet); err != nil {
		return m, err
	}
	answer, err := s.await(msgChannelConfirm, msgChannelFailed)
	if err != nil {
		return m, err
	}
	if answer[0] == msgChannelFailed {
		var f channelFailed
		if err := ssh.Unmarshal(answer, &f); err != nil {
			return m, err
		}
		return m, errors.New("the client refused a configured target: " + f.Message)
	}
	if err := ssh.Unmarshal(answer, &m); err != nil {
		return m, err
	}
	s.hostile("opened", facts{"window": m.Window, "packet": m.Packet})
	return m, nil
}

// about makes a message that begins with its number and the channel it is about; numbers follow, then bytes.
func about(kind byte, channel uint32, numbers ...uint32) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind}, channel)
	for _, n := range numbers {
		m = binary.BigEndian.AppendUint32(m, n)
	}
	return m
}

func dataMessage(channel uint32, data []byte) []byte {
	return append(about(msgChannelData, channel, uint32(len(data))), data...)
}
