# Net::Stomp, over TCP, in STOMP 1.1. Orders: connect, subscribe, unsubscribe, send, begin, commit,
# abort, refuse, disconnect: one JSON object a line, with its name as `do`. Events go out likewise.
use strict;
use warnings;

use Encode qw(decode_utf8 encode_utf8);
use IO::Select;
use JSON::PP;
use Net::Stomp;

my $json = JSON::PP->new->utf8->canonical;
my ( $stomp, %acknowledged );
my $refuse = 0;
$| = 1;

sub tell_test {
    my ( $event, %details ) = @_;
    print $json->encode( { event => $event, %details } ), "\n";
}

# Values as bytes, since the library writes them as they are.
sub headers_of {
    my ($order) = @_;
    my $headers = $order->{headers} || {};
    return map { $_ => encode_utf8( $headers->{$_} ) } keys %$headers;
}

sub heard {
    my ($frame) = @_;
    my %headers = map { $_ => decode_utf8( $frame->headers->{$_} ) } keys %{ $frame->headers };
    my $body = decode_utf8( $frame->body // '' );
    if ( $frame->command eq 'MESSAGE' ) {
        tell_test( 'message', destination => $headers{destination}, headers => \%headers, body => $body );
        my $name = $headers{subscription};
        return unless $acknowledged{$name};
        my $method = $refuse > 0 ? 'nack' : 'ack';
        $refuse-- if $refuse > 0;
        $stomp->$method( { frame => $frame, subscription => $name } );
    }
    elsif ( $frame->command eq 'RECEIPT' ) {
        tell_test( 'receipt', id => $headers{'receipt-id'} );
    }
    elsif ( $frame->command eq 'ERROR' ) {
        tell_test( 'error', headers => \%headers, body => $body );
    }
}

my %orders = (
    connect => sub {
        my ($order) = @_;
        my ( $host, $port ) = split /:/, $order->{address};
        $stomp = Net::Stomp->new( { hostname => $host, port => $port, reconnect_on_fork => 0 } );
        my $frame = $stomp->connect(
            {
                login            => $order->{login},
                passcode         => $order->{passcode},
                host             => $order->{host},
                'accept-version' => '1.1',
            }
        );
        my $headers = $frame->headers;
        tell_test( 'connected', version => $headers->{version}, headers => $headers );
    },
    subscribe => sub {
        my ($order) = @_;
        my %headers = headers_of($order);
        $headers{id} //= $order->{destination};
        $acknowledged{ $headers{id} } = 1 if ( $headers{ack} // 'auto' ) ne 'auto';
        $stomp->subscribe( { destination => $order->{destination}, %headers } );
    },
    unsubscribe => sub {
        my ($order) = @_;
        $stomp->unsubscribe( { id => $order->{destination}, headers_of($order) } );
    },
    send => sub {
        my ($order) = @_;
        my $body = encode_utf8( $order->{body} // '' );
        $stomp->send(
            { destination => $order->{destination}, body => $body, bytes_message => 1, headers_of($order) }
        );
    },
    begin  => sub { command( 'BEGIN',  @_ ) },
    commit => sub { command( 'COMMIT', @_ ) },
    abort  => sub { command( 'ABORT',  @_ ) },
    refuse => sub { $refuse++ },
    disconnect => sub {
        $stomp->disconnect;
        undef $stomp;
        tell_test('closed');
    },
);

sub command {
    my ( $command, $order ) = @_;
    my $headers = { transaction => $order->{transaction} };
    $stomp->send_frame( Net::Stomp::Frame->new( { command => $command, headers => $headers } ) );
}

# One thread: orders and frames by turns.
my $input   = IO::Select->new( \*STDIN );
my $pending = '';
eval {
    while (1) {
        if ( $input->can_read(0.005) ) {
            sysread( STDIN, $pending, 65536, length $pending ) or last;
            while ( $pending =~ s/^([^\n]*)\n// ) {
                my $order = $json->decode($1);
                my $do = $orders{ $order->{do} } or die "no such order: $order->{do}\n";
                $do->($order);
            }
        }
        while ( $stomp && $stomp->can_read( { timeout => 0.005 } ) ) {
            my $frame = $stomp->receive_frame( { timeout => 0.005 } ) or last;
            heard($frame);
        }
    }
    1;
} or do {
    tell_test( 'failed', why => "$@" );
    exit 1;
};
