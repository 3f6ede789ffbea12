package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// rawModes break the rules of RFC 4253 and 4254 themselves; see rawssh.go. Each speaks to the first configured
// target, whose service should take in and throw away what comes (sink, mute).
var rawModes = []hostileMode{
	{name: "window-ignored", stage: "data", expect: expectBounded, raw: ignoreWindow,
		does: "sends 16 MiB into a channel, whatever window the client gave"},
	{name: "oversize-data", stage: "data", expect: expectBounded, does: "sends more in one CHANNEL_DATA than the client's maximum packet",
		raw: func(s *rawSession) error {
			channel, err := s.open(usualWindow, usualPacket)
			if err != nil {
				return err
			}
			return s.raw.send(dataMessage(channel.Sender, make([]byte, min(int(channel.Packet)+1, 200<<10))))
		}},
	{name: "oversize-packet", stage: "packet", expect: expectEnd, does: "sends an SSH packet of 1 MiB",
		raw: func(s *rawSession) error {
			return s.raw.send(append([]byte{msgIgnore}, lengthAndBytes(make([]byte, 1<<20))...))
		}},
	{name: "absurd-length", stage: "packet", expect: expectEnd, does: "announces an SSH packet of almost 4 GiB",
		raw: func(s *rawSession) error {
			return s.raw.sendBroken([]byte{msgIgnore, 0, 0, 0, 0}, func(p []byte) { binary.BigEndian.PutUint32(p, 0xfffffff0) })
		}},
	{name: "bad-mac", stage: "packet", expect: expectEnd, does: "sends a packet whose MAC is wrong",
		raw: func(s *rawSession) error {
			return s.raw.sendBroken([]byte{msgIgnore, 0, 0, 0, 0}, func(p []byte) { p[len(p)-1] ^= 1 })
		}},
	{name: "malformed-messages", stage: "packet", expect: expectBounded, does: "sends messages that end before their fields do",
		raw: func(s *rawSession) error {
			for _, m := range [][]byte{
				{msgChannelOpen, 0, 0, 0, 200, 'c'}, {msgChannelOpen}, {msgGlobalRequest, 0xff, 0xff, 0xff, 0xff},
				{msgChannelData, 0, 0}, about(msgChannelData, 0, 0xffffffff), {msgWindowAdjust, 0},
			} {
				if err := s.raw.send(m); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "unknown-messages", stage: "packet", expect: expectCarryOn, does: "sends message numbers that nobody knows; the answer is UNIMPLEMENTED",
		raw: func(s *rawSession) error {
			for _, kind := range []byte{9, 29, 83, 101, 127, 192, 255} {
				if err := s.raw.send([]byte{kind, 1, 2, 3}); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "ignore-flood", stage: "packet", expect: expectCarryOn, does: "sends 5,000 IGNORE and DEBUG messages",
		raw: func(s *rawSession) error {
			debug := append([]byte{msgDebug, 1}, lengthAndBytes([]byte("\x1b[31mdebug\n"))...)
			debug = append(debug, 0, 0, 0, 0)
			for range 2500 {
				if err := s.raw.send(append([]byte{msgIgnore}, lengthAndBytes(make([]byte, 100))...), debug); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "disconnect-reason", stage: "packet", expect: expectEnd, does: "sends DISCONNECT with a reason (too many connections)",
		raw: func(s *rawSession) error {
			return s.raw.send(ssh.Marshal(&disconnect{12, "too many connections\r\n\x1b[31mnot a log line", "en"}))
		}},
	{name: "silent-rekey", stage: "packet", expect: expectEnd, does: "begins a new key exchange and never goes on with it",
		raw: func(s *rawSession) error {
			s.raw.quirks.noKexReply = true
			return s.raw.startKex()
		}},
	{name: "ping-flood", stage: "request", expect: expectCarryOn, does: "sends 20,000 pings without waiting for the answers",
		raw: func(s *rawSession) error {
			ping := ssh.Marshal(&globalRequest{Type: "ping", WantReply: true})
			for range 20000 {
				if err := s.raw.send(ping); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "unasked-replies", stage: "request", expect: expectBounded, does: "answers requests that nobody made",
		raw: func(s *rawSession) error {
			return s.raw.send([]byte{msgRequestSuccess}, []byte{msgRequestFailure}, about(msgChannelConfirm, 0, 0, 1, 1),
				about(msgChannelSuccess, 4), append(about(msgChannelFailed, 7, 1), 0, 0, 0, 0, 0, 0, 0, 0))
		}},
	{name: "unknown-recipient", stage: "data", expect: expectBounded, does: "sends data, window, EOF and close for channels that do not exist",
		raw: func(s *rawSession) error {
			for _, number := range []uint32{0, 1, 77, 1 << 31, 0xffffffff} {
				if err := s.raw.send(dataMessage(number, []byte("nobody")), about(msgWindowAdjust, number, 1),
					about(msgChannelEOF, number), about(msgChannelClose, number)); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "window-overflow", stage: "data", expect: expectBounded, does: "adjusts a window beyond 2^32-1",
		raw: func(s *rawSession) error {
			channel, err := s.open(usualWindow, usualPacket)
			if err != nil {
				return err
			}
			return s.raw.send(about(msgWindowAdjust, channel.Sender, 0xffffffff), about(msgWindowAdjust, channel.Sender, 0xffffffff))
		}},
	{name: "zero-window", stage: "data", expect: expectCarryOn, does: "opens channels whose window is and stays 0",
		raw: func(s *rawSession) error { return s.openSeveral(10, 0, usualPacket) }},
	{name: "zero-max-packet", stage: "data", expect: expectCarryOn, does: "opens channels whose maximum packet is 0: nothing can be sent in them",
		raw: func(s *rawSession) error { return s.openSeveral(10, usualWindow, 0) }},
	{name: "one-byte-packets", stage: "data", expect: expectCarryOn, does: "opens a channel whose maximum packet is 1 byte",
		raw: func(s *rawSession) error { return s.openSeveral(1, usualWindow, 1) }},
	{name: "same-number", stage: "channel", expect: expectBounded, does: "opens two channels under one number of its own",
		raw: func(s *rawSession) error {
			if _, err := s.offer(usualWindow, usualPacket); err != nil {
				return err
			}
			s.next--
			_, err := s.offer(usualWindow, usualPacket)
			return err
		}},
	{name: "data-after-eof", stage: "data", expect: expectBounded, does: "sends data in a channel after EOF",
		raw: func(s *rawSession) error { return s.afterwards(about(msgChannelEOF, 0)) }},
	{name: "data-after-close", stage: "data", expect: expectBounded, does: "sends data in a channel after CLOSE",
		raw: func(s *rawSession) error { return s.afterwards(about(msgChannelClose, 0)) }},
	{name: "eof-close-storm", stage: "data", expect: expectBounded, does: "sends EOF and CLOSE a hundred times in one channel",
		raw: func(s *rawSession) error {
			channel, err := s.open(usualWindow, usualPacket)
			for i := 0; i < 100 && err == nil; i++ {
				err = s.raw.send(about(msgChannelEOF, channel.Sender), about(msgChannelEOF, channel.Sender),
					about(msgChannelClose, channel.Sender))
			}
			return err
		}},
	{name: "never-closes", stage: "channel", expect: expectCarryOn, does: "opens 100 channels, ends its data and never answers a CLOSE",
		raw: func(s *rawSession) error {
			for range 100 {
				channel, err := s.open(usualWindow, usualPacket)
				if err != nil {
					return err
				}
				if err := s.raw.send(about(msgChannelEOF, channel.Sender)); err != nil {
					return err
				}
			}
			return nil
		}},
	{name: "extended-data", stage: "data", expect: expectCarryOn, does: "sends extended data, which chisel never does",
		raw: func(s *rawSession) error {
			channel, err := s.open(usualWindow, usualPacket)
			if err != nil {
				return err
			}
			m := append(about(msgChannelExtData, channel.Sender, 1), lengthAndBytes([]byte("stderr"))...)
			return s.raw.send(m, dataMessage(channel.Sender, []byte("data")))
		}},
	{name: "channel-requests", stage: "channel", expect: expectRefuse, does: "sends shell, exec and unknown requests in a channel",
		raw: func(s *rawSession) error {
			channel, err := s.open(usualWindow, usualPacket)
			for _, kind := range []string{"shell", "exec", "subsystem", "exit-status", "no-such-request"} {
				if err == nil {
					m := append(about(msgChannelRequest, channel.Sender), lengthAndBytes([]byte(kind))...)
					err = s.raw.send(append(m, 1, 0, 0, 0, 0))
				}
			}
			return err
		}},
}

// ignoreWindow sends without heed of the window and reports how much the client let through.
func ignoreWindow(s *rawSession) error {
	channel, err := s.open(usualWindow, usualPacket)
	if err != nil {
		return err
	}
	size := min(int(channel.Packet), usualPacket)
	message := dataMessage(channel.Sender, make([]byte, size))
	for sent := 0; sent < 16<<20; sent += size {
		if err := s.raw.send(message); err != nil {
			return fmt.Errorf("after %d bytes, of which %d were allowed: %w", sent, channel.Window, err)
		}
	}
	return nil
}

// openSeveral opens channels with these limits and a byte in each, so that the service behind has a reason to answer.
func (s *rawSession) openSeveral(count int, window, packet uint32) error {
	for range count {
		channel, err := s.open(window, packet)
		if err != nil {
			return err
		}
		if err := s.raw.send(dataMessage(channel.Sender, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))); err != nil {
			return err
		}
	}
	return nil
}

// afterwards opens a channel, sends last in it, and then data all the same.
func (s *rawSession) afterwards(last []byte) error {
	channel, err := s.open(usualWindow, usualPacket)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(last[1:], channel.Sender)
	data := dataMessage(channel.Sender, []byte("too late"))
	if err := s.raw.send(last, data); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // once more, when the client has dealt with the first
	return s.raw.send(data)
}
