//! The codec: a packet drawn by hand, every bit that §6.8.6 looks at, every length.

use proptest::prelude::*;

use super::*;

/// An Up packet with every field different, as a hex dump of RFC 5880 §4.1 would be.
const DRAWN: [u8; 24] =
    [0x23, 0xe8, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0xc3, 0x50, 0, 1, 0x86, 0xa0, 0, 0, 0, 1];

fn packet() -> Packet {
    Packet {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        state: State::Up,
        poll: true,
        is_final: false,
        control_plane_independent: true,
        demand: false,
        detect_mult: 3,
        my_discriminator: 7,
        your_discriminator: 9,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 100_000,
        required_min_echo_rx_us: 1,
    }
}

fn refused(change: impl FnOnce(&mut [u8; 24])) -> Discard {
    let mut bytes = DRAWN;
    Received::decode(&bytes).unwrap();
    change(&mut bytes);
    Received::decode(&bytes).unwrap_err()
}

#[test]
fn section_4_1_a_packet_is_what_the_drawing_shows() {
    assert_eq!(packet().encode(0), DRAWN);
    let received = Received::decode(&DRAWN).unwrap();
    assert_eq!((received.packet, received.authentication), (packet(), None));
}

#[test]
fn section_6_8_6_what_must_be_discarded_is() {
    assert_eq!(refused(|b| b[0] = 0x43), Discard::Version);
    assert_eq!(refused(|b| b[3] = 23), Discard::Length);
    assert_eq!(refused(|b| b[3] = 25), Discard::Length, "beyond the datagram");
    assert_eq!(refused(|b| b[1] |= AUTHENTICATION), Discard::Length, "26 with the A bit");
    assert_eq!(refused(|b| b[2] = 0), Discard::DetectMult);
    assert_eq!(refused(|b| b[1] |= MULTIPOINT), Discard::Multipoint);
    assert_eq!(refused(|b| b[7] = 0), Discard::MyDiscriminator);
    assert_eq!(refused(|b| b[11] = 0), Discard::YourDiscriminator);
    assert_eq!(refused(|b| b[1] |= FINAL), Discard::PollAndFinal);
}

#[test]
fn section_6_8_6_your_discriminator_may_be_zero_while_down_or_admin_down() {
    for state in [State::Down, State::AdminDown] {
        let first = Packet { state, your_discriminator: 0, ..packet() };
        assert_eq!(Received::decode(&first.encode(0)).unwrap().packet, first);
    }
    let init = Packet { state: State::Init, your_discriminator: 0, ..packet() };
    assert_eq!(Received::decode(&init.encode(0)), Err(Discard::YourDiscriminator));
}

#[test]
fn every_truncation_is_refused_and_a_trailer_is_ignored() {
    for length in 0..DRAWN.len() {
        assert_eq!(Received::decode(&DRAWN[..length]), Err(Discard::Truncated));
    }
    let trailed = [DRAWN.as_slice(), &[0xff; 9]].concat();
    assert_eq!(Received::decode(&trailed).unwrap(), Received::decode(&DRAWN).unwrap());
}

#[test]
fn an_authentication_section_lies_within_the_packet() {
    let with = |length: u8, auth_length: u8, octets: usize| {
        let mut bytes = [DRAWN.as_slice(), &[1, auth_length, 5, b'x']].concat();
        bytes[1] |= AUTHENTICATION;
        bytes[3] = length;
        bytes.truncate(octets);
        Received::decode(&bytes).map(|received| received.authentication.unwrap().to_vec())
    };
    assert_eq!(with(28, 4, 28), Ok(vec![1, 4, 5, b'x']));
    assert_eq!(with(26, 2, 28), Ok(vec![1, 2]));
    assert_eq!(with(28, 1, 28), Err(Discard::AuthenticationForm), "shorter than its own head");
    assert_eq!(with(27, 4, 28), Err(Discard::AuthenticationForm), "beyond the packet");
    assert_eq!(with(28, 4, 27), Err(Discard::Length));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        bits in any::<[u8; 4]>(), mult in 1_u8.., my in 1_u32.., your in 1_u32.., times in any::<[u32; 3]>(),
    ) {
        let packet = Packet {
            diagnostic: Diagnostic(bits[0] & 0x1f),
            state: State::from_bits(bits[1]),
            poll: bits[2] & 3 == 1,
            is_final: bits[2] & 3 == 2,
            control_plane_independent: bits[3] & 1 != 0,
            demand: bits[3] & 2 != 0,
            detect_mult: mult,
            my_discriminator: my,
            your_discriminator: your,
            desired_min_tx_us: times[0],
            required_min_rx_us: times[1],
            required_min_echo_rx_us: times[2],
        };
        prop_assert_eq!(Received::decode(&packet.encode(0)).unwrap().packet, packet);
    }

    #[test]
    fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Received::decode(&octets);
    }
}
