# Verifies each message on the command line with Mail::DKIM, with public keys from
# a file of "name<TAB>record" lines and no DNS at all.  Prints for each message one
# line: for each signature, top to bottom, "selector=result".
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::DNS;

package LocalResolver;
use Net::DNS;

sub new {
    my ( $class, $path ) = @_;
    my %records;
    open my $file, '<', $path or die "$path: $!";
    while ( my $line = <$file> ) {
        chomp $line;
        my ( $name, $text ) = split /\t/, $line, 2;
        $records{ lc $name } = $text;
    }
    return bless { records => \%records }, $class;
}

sub send {
    my ( $self, $name, $type ) = @_;
    my $packet = Net::DNS::Packet->new( $name, $type );
    $packet->header->qr(1);
    my $text = $self->{records}{ lc $name };
    if ( defined $text ) {
        my @parts = unpack '(a200)*', $text;
        $packet->push( answer =>
              Net::DNS::RR->new( name => $name, type => 'TXT', txtdata => \@parts ) );
    }
    else {
        $packet->header->rcode('NXDOMAIN');
    }
    return $packet;
}
sub errorstring { return 'NOERROR' }

sub bgsend {
    my $self = shift;
    return $self->send(@_);
}
sub bgbusy { return 0 }
sub bgread { return $_[1] }

package main;

Mail::DKIM::DNS::resolver( LocalResolver->new( shift @ARGV ) );
for my $path (@ARGV) {
    my $verifier = Mail::DKIM::Verifier->new();
    open my $file, '<:raw', $path or die "$path: $!";
    local $/ = undef;
    $verifier->PRINT( scalar <$file> );
    close $file or die "$path: $!";
    $verifier->CLOSE();
    print join( ' ', map { $_->selector . '=' . $_->result } $verifier->signatures ), "\n";
}
